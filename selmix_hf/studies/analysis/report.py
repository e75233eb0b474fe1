"""The record of `analysis` as Markdown and as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selmix_hf.data.modality import samples_of
from selmix_hf.reports.plots import make_figure
from selmix_hf.reports.registry import metric_title
from selmix_hf.reports.tables import markdown_table, mean_and_sd, said_of, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
_TITLES = {
    "pair_sampling": "How pairs are drawn",
    "inverse_temperature": "The inverse temperature s",
    "beta_min": "How strongly features are mixed",
    "refresh_steps": "Steps between two refreshes",
    "validation_size": "Images that steer",
    "imbalance": "Imbalance of the training images",
    "backbone": "The head alone, or all weights",
    "mixing": "What is mixed",
}
_AXES = {  # what a study's values are; "" where they are names
    "pair_sampling": "",
    "inverse_temperature": "s",
    "beta_min": "beta_min",
    "refresh_steps": "steps",
    "validation_size": "images a class",
    "imbalance": "n_max / n_min",
    "backbone": "",
    "mixing": "",
}
_LINE, _START, _AUTO = "#1f6fb2", "#9aa5b1", ("#d9480f", "#e8a33d")


def title_of(study: str, samples: str = "images") -> str:
    """What a study asks, for a person."""
    return said_of(samples, _TITLES[study])


def _axis(study: str, samples: str) -> str:
    return said_of(samples, _AXES[study])


def _values(row: Mapping[str, Any], name: str = "psi", side: str = "after") -> list[float]:
    return values_of([run[side] for run in row["runs"]], name)


def study_table(study: Mapping[str, Rows], first_column: str = "") -> str:
    """A row a setting; for each objective what was measured of it, and mean recall beside; ± over seeds."""
    header, rows = [first_column], [["the start"]]
    some = next(iter(study.values()))
    rows += [[row["label"]] for row in some]
    starts_differ = any(_values(row, side="before") != _values(some[0], side="before") for row in some)
    for objective, of_objective in study.items():
        beside = [] if objective == "mean_recall" else ["mean_recall"]
        for name in ["psi", *beside]:
            header.append(metric_title(objective) if name == "psi" else "its mean recall")
            rows[0].append(mean_and_sd(_values(of_objective[0], name, "before")))
            for cells, row in zip(rows[1:], of_objective, strict=True):
                before = _values(row, name, "before") if starts_differ else []
                start = f"{np.mean(before):.3f} → " if before else ""
                cells.append(start + mean_and_sd(_values(row, name)))
    return markdown_table(header, rows[1:] if starts_differ else rows)


def paired(row: Mapping[str, Any], other: Mapping[str, Any], name: str = "psi") -> tuple[float, float]:
    """Mean over seeds of the difference row - other, and its standard deviation over seeds."""
    differences = np.subtract(_values(row, name), _values(other, name))
    return float(differences.mean()), float(differences.std(ddof=1)) if len(differences) > 1 else 0.0


def auto_against_fixed(studies: Mapping[str, Mapping[str, Rows]]) -> str:
    """Temperature studies in short: "auto" beside the fixed s that was best on the very images measured.

    Args:
        studies: by the name of what they started from; one of the name "" has no column for it.
    """
    rows = []
    for where, study in studies.items():
        rows += [[where, *cells] if where else cells for cells in _auto_rows(study)]
    header = ["objective", "first s of auto", "auto", "best fixed s", "with it", "auto − best", "worst fixed"]
    return markdown_table(["from", *header] if "" not in studies else header, rows)


def _auto_rows(study: Mapping[str, Rows]) -> list[list[str]]:
    rows = []
    for objective, of_objective in study.items():
        auto, fixed = of_objective[0], [row for row in of_objective if row["value"] is not None]
        best = max(fixed, key=lambda row: np.mean(_values(row)))
        worst = min(fixed, key=lambda row: np.mean(_values(row)))
        gap, spread = paired(auto, best)
        rows.append(
            [
                metric_title(objective),
                f"{auto['runs'][0]['inverse_temperature']:.3g}",
                mean_and_sd(_values(auto)),
                best["label"],
                mean_and_sd(_values(best)),
                f"{gap:+.3f} ± {spread:.3f}",
                f"{np.mean(_values(worst)):.3f}",
            ]
        )
    return rows


def convergence_table(study: Mapping[str, Rows]) -> str:
    """For each objective, on the images that steer: steps until it has risen by half of what "auto" gains in the end
    ("-" where it never does), and its mean over the run."""
    header, rows = ["s"], [[row["label"]] for row in next(iter(study.values()))]
    for objective, of_objective in study.items():
        header += [f"{metric_title(objective)}: steps", "mean over the run"]
        half = np.diff(_curve(of_objective[0])[[0, -1]])[0] / 2
        for cells, row in zip(rows, of_objective, strict=True):
            curve = _curve(row)
            reached = np.flatnonzero((curve >= curve[0] + half) & (half > 0))
            cells.append(str(row["runs"][0]["steps"][reached[0]]) if len(reached) else "-")
            cells.append(f"{np.mean([run['psi'] for run in row['runs']]):.3f}")
    return markdown_table(header, rows)


def plot_study(study: Mapping[str, Rows], axis: str, title: str) -> Figure:
    """One panel an objective: what was measured against the setting, the start dotted.

    Args:
        study: rows of each objective.
        axis: what the values are; "" for names.
    """
    return _figure(study, title, "measured", partial(_draw_settings, axis=axis), legend_width=0.4, legend_size=8)


def plot_convergence(study: Mapping[str, Rows], title: str, samples: str = "images") -> Figure:
    """One panel an objective: the objective on the samples that steer over the steps, a curve for each setting; s₀ is
    the s that "auto" begins with."""
    return _figure(study, title, f"on the {samples} that steer", _draw_curves, legend_width=1.2, legend_size=7)


def _figure(
    study: Mapping[str, Rows],
    title: str,
    y_label: str,
    draw: Callable[[Axes, Rows], None],
    legend_width: float,
    legend_size: int,
) -> Figure:
    """One panel an objective, and the legend beside the last; `draw` fills a panel."""
    figure = make_figure(3.7 * len(study) + legend_width, 3.4)
    panels = figure.subplots(1, len(study), squeeze=False)[0]
    for panel, (objective, rows) in zip(panels, study.items(), strict=True):
        draw(panel, rows)
        panel.set_title(metric_title(objective), loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(y_label)
    panels[-1].legend(frameon=False, fontsize=legend_size, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_settings(panel: Axes, rows: Rows, axis: str) -> None:
    numeric = [row for row in rows if row["value"] is not None]
    means, spreads = ([float(f(_values(row))) for row in rows] for f in (np.mean, np.std))
    if axis:
        _lines(panel, numeric)
        for row, colour in zip([row for row in rows if row["value"] is None], _AUTO, strict=False):
            panel.axhline(float(np.mean(_values(row))), color=colour, lw=1.5, label=row["label"])
        panel.set_xlabel(axis)
    else:
        labels = [row["label"] for row in rows]
        panel.errorbar(labels, means, spreads, fmt="o", ms=6, color=_LINE, capsize=4, label="after SelMix")
        panel.margins(x=0.3)
        panel.tick_params("x", rotation=20 if len(labels) > 3 else 0)
    befores = [float(np.mean(_values(row, side="before"))) for row in (numeric if axis else rows)]
    if np.ptp(befores) < 1e-9:
        panel.axhline(befores[0], color=_START, ls=":", label="start")
    else:
        panel.plot([row["value"] for row in numeric], befores, color=_START, ls=":", label="start")
    shown = [*means, *befores]
    margin = max(0.12 * (max(shown) - min(shown)), 0.01)
    panel.set_ylim(max(min(shown) - margin - max(spreads), 0), min(max(shown) + margin + max(spreads), 1))


def _lines(panel: Axes, rows: Rows) -> None:
    x = [row["value"] for row in rows]
    mean, spread = (np.array([f(_values(row)) for row in rows]) for f in (np.mean, np.std))
    panel.plot(x, mean, "o-", color=_LINE, ms=4, label="after SelMix")
    panel.fill_between(x, mean - spread, mean + spread, color=_LINE, alpha=0.15, lw=0)
    if min(x) > 0 and max(x) / min(x) > 20:
        panel.set_xscale("log")


def _draw_curves(panel: Axes, rows: Rows) -> None:
    from matplotlib import colormaps

    fixed = [row for row in rows if row["value"] is not None]
    for i, row in enumerate(fixed):
        colour = colormaps["viridis_r"](i / max(len(fixed) - 1, 1))
        share = row["value"] / fixed[len(fixed) // 2]["value"]  # of the first s of "auto"
        label = f"s = {float(f'{share:.1g}'):g} s₀"
        panel.plot(row["runs"][0]["steps"], _curve(row), color=colour, lw=1, label=label)
    for row, shade in zip([row for row in rows if row["value"] is None], _AUTO, strict=False):
        panel.plot(row["runs"][0]["steps"], _curve(row), color=shade, lw=2, label=row["label"])
    panel.set_xlabel("step")


def _curve(row: Mapping[str, Any]) -> np.ndarray:
    """Mean over seeds, and over five looks in a row, so that curves can be told apart."""
    mean = np.mean([run["psi"] for run in row["runs"]], 0)
    padded = np.pad(mean, 2, mode="edge")
    return np.convolve(padded, np.full(5, 0.2), "valid")


def study_report(name: str, study: Mapping[str, Rows], samples: str = "images") -> str:
    """The tables of a study, Markdown."""
    tables = [study_table(study, _axis(name, samples) or title_of(name).lower())]
    if name == "inverse_temperature":
        tables = [auto_against_fixed({"": study}), *tables, convergence_table(study)]
    return "\n\n".join(tables)


def save_study_plots(record: Mapping[str, Any], folder: Path, prefix: str = "") -> dict[str, list[str]]:
    """The pictures of every study; returns the names of the files of each."""
    files: dict[str, list[str]] = {}
    samples = _samples_of(record)
    for name, study in record["studies"].items():
        figures = {name: plot_study(study, _axis(name, samples), title_of(name, samples))}
        if name == "inverse_temperature":
            figures["convergence"] = plot_convergence(study, "Speed of convergence", samples)
        for file, figure in figures.items():
            figure.savefig(folder / f"{prefix}{file}.png", dpi=110)
        files[name] = [f"{prefix}{file}.png" for file in figures]
    return files


def write_report(record: Mapping[str, Any], folder: Path) -> str:
    """The whole report, Markdown; its pictures are saved in the folder."""
    where, samples = f"{record['base_model']} on {record['dataset']}", _samples_of(record)
    parts = [f"# SelMix from {where}", f"    {record['command']}"]
    parts.append(
        f"{record['hardware']}, {record['seconds']:.0f} s. Mean ± standard deviation over seeds "
        f"{', '.join(map(str, record['seeds']))}, on the half of the validation {samples} that does not steer."
    )
    parts += filter(None, [record.get("remark", "")])
    files = save_study_plots(record, folder)
    for name, study in record["studies"].items():
        title = title_of(name, samples)
        parts += [f"## {title}", study_report(name, study, samples)]
        parts += [f"![{title}]({file})" for file in files[name]]
    return "\n\n".join(parts) + "\n"


def _samples_of(record: Mapping[str, Any]) -> str:
    return samples_of(record.get("task", "image-classification"))  # not in older records

"""The record of a comparison as one Markdown table and one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selmix_hf.data.modality import samples_of
from selmix_hf.reports.plots import make_figure
from selmix_hf.reports.registry import metric_title
from selmix_hf.reports.tables import INTERVAL, interval_cell, markdown_table, mean_and_sd, values_of
from selmix_hf.studies.compare.methods import SELMIX

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "os^Dv<>p"


def title_of(objective: str) -> str:
    """For a person."""
    return "objective" if objective == "psi" else metric_title(objective)


def worst_metric(record: Mapping[str, Any]) -> str:
    """The recall that stands for the worst: of head and tail, or of the worst share, where that is optimised and the
    worst class is not."""
    others = [name for name in ("min_head_tail_recall", "worst_share_recall") if name in record["objectives"]]
    return others[0] if others and "min_recall" not in record["objectives"] else "min_recall"


def _setting(setting: Mapping[str, Any]) -> str:
    words = {"scale": "learning rate ×", "learning_rate": "learning rate", "rate": "multiplier rate"}
    words |= {"bias_share": "class bias ×", "gain_set_use": "gain set:"}
    return ", ".join(
        f"{words.get(name, name)} {value if isinstance(value, str) else format(value, 'g')}"
        if value is not True
        else f"{name}-fitted"
        for name, value in setting.items()
    )


def table(record: Mapping[str, Any]) -> str:
    """A block of rows an objective: every method with the setting that was chosen for it, on the test samples.

    "SelMix − it" is SelMix minus the method in the objective, with its paired bootstrap interval.
    """
    worst = worst_metric(record)
    shown = ["mean_recall", worst, "h_mean", "smallest_coverage"]
    if not {*record["objectives"]} <= {*shown}:
        shown.insert(0, "psi")  # what is optimised has no column of its own
    header = ["for", "method", "setting", *(title_of(name) for name in shown)]
    place = 1 + header.index(title_of(worst))
    header.insert(place, INTERVAL)
    header += ["SelMix − it", f"its {INTERVAL}", "s", "GiB"]
    rows = []
    for objective, methods in record["objectives"].items():
        for name, result in methods.items():
            runs = result["runs"]
            row = [title_of(objective), name, _setting(result["setting"]) or "defaults" * (name == SELMIX)]
            row += [mean_and_sd(values_of(runs, metric)) for metric in shown]
            row.insert(place, interval_cell(runs, worst))
            row += _difference(result, objective)
            row += [f"{result['seconds']:.1f}", f"{max(result['peak_memory_gb'].values(), default=float('nan')):.1f}"]
            rows.append(row)
    return markdown_table(header, rows)


def _difference(result: Mapping[str, Any], objective: str) -> list[str]:
    change = result["selmix_minus"].get(objective) if result["selmix_minus"] else None
    if change is None:
        return ["", ""]
    return [f"{change[0]:+.3f}", f"{change[1]:+.3f} to {change[2]:+.3f}"]


def dominated(points: Mapping[Any, tuple[float, float]]) -> set[Any]:
    """The points that another one beats in one coordinate without losing in the other."""
    return {
        name
        for name, (x, y) in points.items()
        if any(a >= x and b >= y and (a > x or b > y) for a, b in points.values())
    }


def points_of(record: Mapping[str, Any]) -> dict[tuple[str, str], tuple[float, float]]:
    """(objective, method) -> (mean recall, worst recall), averaged over seeds; of those that have both."""
    shown = ("mean_recall", worst_metric(record))
    found = {
        (objective, name): [values_of(result["runs"], metric) for metric in shown]
        for objective, methods in record["objectives"].items()
        for name, result in methods.items()
    }
    return {key: (float(np.mean(x)), float(np.mean(y))) for key, (x, y) in found.items() if x and y}


def front_lines(record: Mapping[str, Any]) -> str:
    """In words: for each objective, whether a rival has both more mean recall and more worst-class recall."""
    points = points_of(record)
    rivals = {key: point for key, point in points.items() if key[1] != SELMIX}
    lines = []
    for objective in [objective for objective, name in points if name == SELMIX]:
        own = points[objective, SELMIX]
        better = {key: point for key, point in rivals.items() if "own" in dominated({key: point, "own": own})}
        verdict = "no rival has more of one without less of the other"
        if better:
            (aim, name), (mean, worst) = max(better.items(), key=lambda item: item[1][1])
            have = "has" if len(better) == 1 else "have"
            verdict = (
                f"{len(better)} of {len(rivals)} results of rivals {have} as much of both or more, such as {name} for "
                f"{title_of(aim)} ({mean:.3f}, {worst:.3f})"
            )
        lines.append(f"- SelMix for {title_of(objective)}: mean {own[0]:.3f}, worst {own[1]:.3f}; {verdict}.")
    return "\n".join(lines)


def plot_front(record: Mapping[str, Any], title: str) -> Figure:
    """Mean recall against worst-class recall: every method for every objective, and the front of what none beats."""
    from matplotlib import colormaps

    points = points_of(record)
    objectives = list(record["objectives"])
    methods = list(record["objectives"][objectives[0]])
    figure = make_figure(9.5, 5.4)
    axes = figure.add_subplot()
    best = dominated(points)
    front = sorted({point for key, point in points.items() if key not in best})
    axes.step(*np.reshape(front, (-1, 2)).T, where="pre", color="#9aa5b1", lw=1.2, ls="--", zorder=1, label="front")
    for i, name in enumerate(methods):
        ours = name == SELMIX
        colour = "#1f6fb2" if ours else "#333333" if i == 0 else colormaps["tab20"]((2 * i + (i >= 10)) % 20)
        for objective, marker in zip(objectives, _MARKERS, strict=False):
            x, y = points.get((objective, name), (np.nan, np.nan))
            axes.scatter(
                x, y, s=110 if ours else 42, marker=marker, color=colour, zorder=3 if ours else 2,
                edgecolor="#10395c" if ours else "none", linewidth=1.4,
            )  # fmt: skip
        axes.scatter([], [], s=42, color=colour, label=name)
    for objective, marker in zip(objectives, _MARKERS, strict=False):
        axes.scatter([], [], s=42, marker=marker, color="#555555", label=f"for {title_of(objective)}")
    axes.set_xlabel("mean recall")
    axes.set_ylabel(title_of(worst_metric(record)))
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return figure


def summary(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header, and a row a method: for each objective its value with the 95% interval of a recall, mean recall beside
    it, and SelMix minus the method with its paired bootstrap interval."""
    objectives = record["objectives"]
    names = dict.fromkeys(name for methods in objectives.values() for name in methods)
    header, rows = ["method"], {name: [name] for name in names if name != SELMIX}
    rows[SELMIX] = [SELMIX]
    for objective, methods in objectives.items():
        beside = objective != "mean_recall"
        header += [title_of(objective), *["its mean recall"] * beside, "SelMix − it"]
        for name, row in rows.items():
            row += _summary(methods[name], objective, beside) if name in methods else [""] * (2 + beside)
    return header, [*rows.values()]


def _summary(result: Mapping[str, Any], objective: str, with_mean: bool) -> list[str]:
    runs = result["runs"]
    interval, (change, of_change) = interval_cell(runs, objective), _difference(result, objective)
    value = mean_and_sd(values_of(runs, objective)) + (f" ({interval})" if interval else "")
    beside = [mean_and_sd(values_of(runs, "mean_recall"))] if with_mean else []
    return [value, *beside, f"{change} ({of_change})" if change else ""]


def write_report(record: Mapping[str, Any], folder: Path) -> str:
    """The report, Markdown; its picture, front.png, is saved in the folder."""
    where = f"{record['base_model']} on {record['dataset']}"
    samples = samples_of(record.get("task", "image-classification"))  # not in older records
    plot_front(record, f"{where}, test {samples}").savefig(folder / "front.png", dpi=110)
    seeds = ", ".join(map(str, record["seeds"]))
    parts = [
        f"# From the same start: {where}",
        f"    {record['command']}",
        f"{record['hardware']}, {record['seconds']:.0f} s in all, {record['feature_seconds']:.0f} s of them for the "
        f"features. On {record['num_test']:,} test {samples}; mean ± standard deviation over seeds {seeds}. Settings "
        f"were chosen on validation {samples} that the method was not fitted on. The first interval is that of the "
        f"worst recall over the choice of test {samples}, over seeds from the lowest end to the highest; the second "
        "that of the difference (paired bootstrap). Seconds are those of one fit, without the features; GiB is what "
        "the process grew by meanwhile.",
        *filter(None, [record.get("remark", "")]),
        table(record),
        front_lines(record),
        "![Mean against worst recall](front.png)",
    ]
    return "\n\n".join(parts) + "\n"

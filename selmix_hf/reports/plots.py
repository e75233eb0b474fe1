"""Pictures of a run: the gain and pair matrices, recall per class before and after, the objective over steps.

Needs matplotlib (`pip install "selmix-hf[plots]"`). Figures are drawn without pyplot, so no display is needed and no
global state is touched. Shape suffix: K classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from selmix_hf.method.confusion import confusion_matrix
from selmix_hf.method.gain_fidelity import GainFidelity
from selmix_hf.method.intervals import recall_intervals, worst_share_recall_interval
from selmix_hf.method.minimum import worst_number, worst_share_mean, worst_share_title
from selmix_hf.method.objectives import recalls
from selmix_hf.reports.registry import interval_names, metric_title
from selmix_hf.reports.tables import values_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMES = 40  # beyond, axes show class numbers
_BEFORE, _AFTER = "#9aa5b1", "#1f6fb2"


def make_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "selmix-hf[plots]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _short(names: Sequence[str]) -> bool:
    return max(len(name) for name in names) <= 2


def plot_matrix(
    matrix: Tensor, class_names: Sequence[str], title: str, value_name: str, signed: bool = False
) -> Figure:
    """A K x K matrix over class pairs: rows keep their label, columns are mixed in.

    Args:
        matrix: K x K.
        class_names: K names.
        signed: colours diverge around zero; otherwise they start at zero.
    """
    num_classes = len(matrix)
    side = float(np.clip(0.42 * num_classes + 2, 4.5, 11))
    figure = make_figure(side + 1, side)
    axes = figure.add_subplot()
    limit = float(matrix.abs().max()) or 1.0
    image = axes.imshow(
        matrix.numpy(), cmap="RdBu_r" if signed else "Blues", vmin=-limit if signed else 0, vmax=limit, aspect="equal"
    )
    if num_classes <= _MOST_NAMES:
        axes.set_xticks(range(num_classes), class_names, rotation=0 if _short(class_names) else 90)
        axes.set_yticks(range(num_classes), class_names)
    axes.set_xlabel("class mixed in")
    axes.set_ylabel("class whose label is kept")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label=value_name, shrink=0.8)
    return figure


def plot_recalls(
    before: ArrayLike,
    after: ArrayLike,
    class_names: Sequence[str],
    set_name: str,
    intervals: Sequence[Any] | None = None,
    worst_share: float = 0.1,
    worst_share_interval: tuple[float, float] | None = None,
) -> Figure:
    """Recall of each class before and after; dotted the worst class, or the mean of the worst share where that is more
    than one class.

    Args:
        before, after: recalls, shape K; NaN for classes of which none was recorded.
        class_names: K names.
        set_name: the set that they come from, for the title.
        intervals: of the recalls before and of those after, each their lower and upper ends (K).
        worst_share: see `minimum.worst_share_mean`.
        worst_share_interval: of its mean recall after.
    """
    before_K, after_K = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    num_classes = len(before_K)
    figure = make_figure(float(np.clip(0.5 * num_classes + 2, 5.5, 14)), 4.2)
    axes = figure.add_subplot()
    position_K = np.arange(num_classes)
    if num_classes <= _MOST_NAMES:
        axes.bar(position_K - 0.2, before_K, 0.4, color=_BEFORE, label="before")
        axes.bar(position_K + 0.2, after_K, 0.4, color=_AFTER, label="after")
        for shift, (low_K, high_K) in zip((-0.2, 0.2), intervals or (), strict=False):
            axes.vlines(position_K + shift, low_K, high_K, color="#222222", lw=1)
        short = _short(class_names)
        axes.set_xticks(position_K, class_names, rotation=0 if short else 45, ha="center" if short else "right")
    else:
        order_K = np.argsort(before_K)
        if intervals:
            low_K, high_K = (np.asarray(ends)[order_K] for ends in intervals[1])
            axes.vlines(position_K, low_K, high_K, color=_AFTER, lw=0.6, alpha=0.35)
        axes.plot(position_K, after_K[order_K], ".", ms=3, color=_AFTER, label="after")
        axes.plot(position_K, before_K[order_K], color=_BEFORE, lw=2, label="before")
        axes.set_xlabel("classes by recall before")
    known = [values_K[~np.isnan(values_K)] for values_K in (before_K, after_K)]
    (lowest_before, lowest), (mean_before, mean) = [v.min() for v in known], [v.mean() for v in known]
    worst, dotted = "", [lowest_before, lowest]
    if worst_number(worst_share, num_classes) > 1:
        dotted = [float(worst_share_mean(torch.from_numpy(values), worst_share)) for values in known]
        ends = " (95%: {:.3f} to {:.3f})".format(*worst_share_interval) if worst_share_interval else ""
        worst = f"dotted: {worst_share_title(worst_share)} {dotted[0]:.3f} → {dotted[1]:.3f}{ends}\n"
    for height, color in zip(dotted, (_BEFORE, _AFTER), strict=True):
        axes.axhline(height, color=color, ls=":", lw=1.2)
    axes.set_ylim(0, 1)
    axes.set_ylabel("recall")
    shown = ", 95% intervals of all classes at once" if intervals else ""
    axes.set_title(
        f"Recall per class on {set_name}{shown}\n{worst}worst {lowest_before:.3f} → {lowest:.3f}, "
        f"mean {mean_before:.3f} → {mean:.3f}",
        fontsize=10,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_objective(log_history: Sequence[dict[str, Any]], objective_name: str, kept_step: int | None = None) -> Figure:
    """psi, mean and worst recall of the gain set over optimizer steps, with the effective number of pairs below where
    pairs were drawn.

    Args:
        log_history: `trainer.state.log_history`.
        kept_step: the step whose weights the run returns, to be marked.
    """
    logs = [log for log in log_history if "gain_set_psi" in log]
    steps = [log["step"] for log in logs]
    figure = make_figure(6.5, 5)
    pairs = [log["effective_pairs"] for log in logs if "effective_pairs" in log]
    panels = figure.subplots(1 + bool(pairs), 1, sharex=True, squeeze=False, height_ratios=[3, 1][: 1 + bool(pairs)])
    upper, lower = panels[0, 0], panels[-1, 0]
    psi = [log["gain_set_psi"] for log in logs]
    for key, color, label in (
        ("gain_set_mean_recall", "#6b8f3c", metric_title("mean_recall")),
        ("gain_set_worst_recall", "#c4572f", "worst recall"),
    ):
        values = values_of(logs, key)
        if values and not np.allclose(values, psi):  # else the objective is this one
            upper.plot(steps, values, color=color, lw=1.2, label=label)
    upper.plot(steps, psi, color=_AFTER, lw=2, label=objective_name)
    if kept_step is not None:
        for axes in panels.flat:
            axes.axvline(kept_step, color="#222222", ls=":", lw=1.2, label="weights kept")
    upper.set_ylabel("on the gain set")
    role = "the set that steers the training" if pairs else "the gain set, which steers nothing here"
    upper.set_title(f"{objective_name}, on {role}", fontsize=10)
    upper.legend(fontsize=8)
    if pairs:
        lower.plot(steps, pairs, color="#555555", lw=1.2)
        lower.set_ylabel("effective\npairs")
    lower.set_xlabel("optimizer step")
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def plot_gain_fidelity(fidelity: GainFidelity, title: str = "") -> Figure:
    """Realised against predicted change, one point a pair of classes: on the soft confusion matrix and on the hard.

    Args:
        fidelity: of `gain_fidelity.gain_fidelity`.
        title: above the panels; the size of the step is added.
    """
    figure = make_figure(9, 4.4)
    predicted_M = fidelity.predicted.numpy()
    ends = np.array([min(predicted_M.min(), 0), max(predicted_M.max(), 0)])
    for axes, name in zip(figure.subplots(1, 2), ("soft", "hard"), strict=True):
        slope, rank = fidelity.slope(name), fidelity.rank_correlation(name)
        axes.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        axes.axvline(0, color="#cccccc", lw=0.8, zorder=0)
        axes.plot(ends, ends, color=_BEFORE, ls=":", lw=1.4, label="as predicted")
        axes.plot(ends, slope * ends, color="#c4572f", lw=1.4, label=f"slope {slope:.2f}")
        axes.scatter(predicted_M, getattr(fidelity, name).numpy(), s=16, color=_AFTER, alpha=0.75, lw=0)
        axes.set_title(f"{name} confusion matrix: rank correlation {rank:.2f}", fontsize=10)
        axes.set_xlabel("predicted change")
        axes.set_ylabel("realised change")
        axes.ticklabel_format(style="sci", scilimits=(-3, 3))
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}{', ' if title else ''}one step of {fidelity.step_size:g}", fontsize=11)
    return figure


def save_plots(
    trainer: Any,
    folder: str | os.PathLike[str],
    before: Tensor | None = None,
    after: Tensor | None = None,
    set_name: str = "",
) -> list[Path]:
    """Write gain_matrix.png, pair_distribution.png, recall_per_class.png and objective.png; gain_fidelity.png as well
    where a `GainFidelityCallback` had its look, and the last two alone where single samples were drawn.

    Args:
        trainer: a `SelMixTrainer` after training.
        folder: made if need be.
        before, after: counts (K x K) of a held-out set for the recalls; default those of the gain set at the start of
            the run and with the weights that it returned.
        set_name: name of that set.

    Returns:
        the paths; without the gain matrix where a run was resumed in its last period, since checkpoints keep P alone.

    Raises:
        ValueError: the trainer has not trained.
    """
    if trainer.gain_counts is None or trainer.pair_state.start_counts is None:
        raise ValueError("there is nothing to plot before trainer.train().")
    intervals, worst_interval, worst_share = None, None, trainer.args.worst_share
    if before is None or after is None:
        before, after = trainer.pair_state.start_counts, trainer.gain_counts
        pairs = trainer.pair_state.probability is not None
        set_name = "the gain set, which steered the training" if pairs else "the gain set"
    else:
        intervals = [recall_intervals(counts) for counts in (before, after)]
        worst_interval = worst_share_recall_interval(after, worst_share)
    kept = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    paths = _save(
        folder,
        trainer.class_names,
        trainer.objective.name,
        trainer.gain,
        trainer.pair_state.probability,
        [recalls(confusion_matrix(counts)).numpy() for counts in (before, after)],
        intervals,
        (worst_share, worst_interval),
        set_name or "the given set",
        trainer.state.log_history,
        kept,
    )
    for callback in trainer.callback_handler.callbacks:
        if isinstance(fidelity := getattr(callback, "latest", None), GainFidelity):
            paths.append(Path(folder) / "gain_fidelity.png")
            figure = plot_gain_fidelity(fidelity, f"Gains of {trainer.objective.name} at step {callback.step}")
            figure.savefig(paths[-1], dpi=130)
    return paths


def save_record_plots(record: Mapping[str, Any], folder: str | os.PathLike[str], run: int = 0) -> list[Path]:
    """The plots of `save_plots`, from the results.json of a recipe.

    Args:
        record: its content; matrices are drawn where they are recorded.
        folder: made if need be.
        run: which of its seeds.

    Returns:
        the paths.
    """
    of_run, names = record["runs"][run], record["class_names"]
    reports = of_run["test_before"], of_run["test_after"]

    def of_classes(kind: str) -> list[np.ndarray]:
        return [np.array([report.get(f"{kind}/{name}", np.nan) for name in names], float) for report in reports]

    intervals = [*zip(of_classes("recall_low"), of_classes("recall_high"), strict=True)]
    measured = not np.isnan(intervals).all()  # not in the oldest records
    gain, probability = (of_run.get(key) for key in ("gain", "pair_probability"))
    return _save(
        folder,
        names,
        record["objective"],
        None if gain is None else torch.tensor(gain),
        None if probability is None else torch.tensor(probability),
        of_classes("recall"),
        intervals if measured else None,
        _worst_share_of(reports[1]),
        "the test set",
        of_run["history"],
        of_run["kept_step"],
    )


def _worst_share_of(report: Mapping[str, Any]) -> tuple[float, tuple[float, float] | None]:
    """The share and the interval of its mean recall; 0 and None where it is one class or less, or not recorded."""
    share = report.get("worst_share", 0.0)
    ends = [report[end] for end in interval_names("worst_share_recall") if end in report]
    return share, (ends[0], ends[1]) if share and len(ends) == 2 else None


def _save(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    psi: str,
    gain_KK: Tensor | None,
    probability_KK: Tensor | None,
    recalls_2K: Sequence[np.ndarray],
    intervals_22K: Sequence[Any] | None,
    worst_share: tuple[float, tuple[float, float] | None],
    set_name: str,
    history: Sequence[dict[str, Any]],
    kept_step: int | None,
) -> list[Path]:
    figures, (before_K, after_K) = {}, recalls_2K
    if gain_KK is not None:
        title = f"Gain of {psi} by mixing, last period"
        figures["gain_matrix"] = plot_matrix(gain_KK, names, title, "gain", signed=True)
    if probability_KK is not None:
        title = "Share of the pairs drawn, last period"
        figures["pair_distribution"] = plot_matrix(probability_KK, names, title, "probability")
    if not any(np.isnan(values_K).all() for values_K in recalls_2K):
        figures["recall_per_class"] = plot_recalls(before_K, after_K, names, set_name, intervals_22K, *worst_share)
    figures["objective"] = plot_objective(history, psi, kept_step)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths

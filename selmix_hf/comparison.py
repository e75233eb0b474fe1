"""Before and after: tables for the terminal and for a README, spread over seeds, paired bootstrap intervals.

Shape suffixes: S seeds, N test samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from selmix_hf.confusion import confusion_counts
from selmix_hf.metrics import classification_metrics

KEY_METRICS = {
    "mean_recall": "mean recall",
    "min_recall": "worst-class recall",
    "g_mean": "G-mean",
    "h_mean": "H-mean",
    "smallest_coverage": "smallest coverage",
}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well in a terminal: columns padded, all but the first flush right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(cells)) + " |"
        for cells in ([*zip(line, widths, strict=True)] for line in lines)
    )


def before_after_table(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    intervals: Mapping[str, tuple[float, float, float]] | None = None,
    per_class: bool = False,
) -> str:
    """Before, after and the change, with the spread over seeds where there are several.

    Args:
        before, after: reports of `classification_metrics`, one a seed.
        intervals: of `paired_bootstrap`, for a last column.
        per_class: whether to add the recall of every class.
    """
    titles = dict(KEY_METRICS)
    if per_class:
        titles |= {n: f"recall of {n.removeprefix('recall/')}" for n in before[0] if n.startswith("recall/")}
    rows = []
    for name, title in titles.items():
        values_before, values_after = ([float(report[name]) for report in side] for side in (before, after))
        row = [title, mean_and_sd(values_before), mean_and_sd(values_after)]
        row.append(f"{np.mean(values_after) - np.mean(values_before):+.3f}")
        if intervals is not None:
            row.append("{:+.3f} to {:+.3f}".format(*intervals[name][1:]) if name in intervals else "")
        rows.append(row)
    worst = [", ".join(dict.fromkeys(str(report["worst_class"]) for report in side)) for side in (before, after)]
    header = ["", "before", "after", "change"] + (["95% interval"] if intervals is not None else [])
    rows.insert(len(KEY_METRICS), ["worst class", *worst] + [""] * (len(header) - 3))
    return markdown_table(header, rows)


def mean_and_sd(values: Sequence[float]) -> str:
    """Such as "0.812 ± 0.013", with the sample standard deviation; the bare number where all are one."""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(set(values)) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def seeds_table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Mean and standard deviation over seeds: one row a method, one column a metric.

    Args:
        reports: for each method, the S reports of `classification_metrics`.
    """
    rows = [
        [method, *[mean_and_sd([report[name] for report in runs]) for name in KEY_METRICS]]
        for method, runs in reports.items()
    ]
    return markdown_table(["", *KEY_METRICS.values()], rows)


def paired_bootstrap(
    labels: ArrayLike, before: ArrayLike, after: ArrayLike, num_classes: int, num_resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """How certain the change of each metric is, as far as the choice of test samples goes.

    Samples are drawn again with replacement within each class, and the same draw serves both sides and every seed.
    The spread over training seeds is not in the interval.

    Args:
        labels: true classes, shape N.
        before, after: predicted classes, S x N, or N for one seed.
        num_classes: K.

    Returns:
        for each of `KEY_METRICS`: the change averaged over seeds, and the ends of its 95% percentile interval.
    """
    labels_N = np.asarray(labels)
    sides = [np.atleast_2d(np.asarray(side)) for side in (before, after)]
    rows_of_class = [np.flatnonzero(labels_N == k) for k in range(num_classes)]
    random = np.random.default_rng(seed)

    def changes(rows_N: np.ndarray) -> list[float]:
        means = [
            np.mean([_metrics(labels_N[rows_N], predicted_N[rows_N], num_classes) for predicted_N in side_SN], axis=0)
            for side_SN in sides
        ]
        return list(means[1] - means[0])

    observed = changes(np.arange(len(labels_N)))
    resampled = np.array(
        [
            changes(np.concatenate([random.choice(rows, len(rows)) for rows in rows_of_class]))
            for _ in range(num_resamples)
        ]
    )
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return {name: (float(observed[i]), float(low[i]), float(high[i])) for i, name in enumerate(KEY_METRICS)}


def _metrics(labels_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> list[float]:
    counts_KK = confusion_counts(torch.as_tensor(labels_N), torch.as_tensor(predicted_N), num_classes)
    report = classification_metrics(counts_KK, per_class=False)
    return [report[name] for name in KEY_METRICS]

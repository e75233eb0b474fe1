"""Before and after: tables for the terminal and for a README, spread over seeds, paired bootstrap intervals.

Shape suffixes: S seeds, N test samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from selmix_hf.card_parts import said_of
from selmix_hf.method.confusion import require_all_classes
from selmix_hf.method.minimum import worst_share_mean, worst_share_title
from selmix_hf.metrics import class_groups

KEY_METRICS = {
    "mean_recall": "mean recall",
    "min_recall": "worst-class recall",
    "g_mean": "G-mean",
    "h_mean": "H-mean",
    "smallest_coverage": "smallest coverage",
}
GROUP_METRICS = {  # shown where a report has them: the training frequencies were given
    "min_head_tail_recall": "smaller of head and tail recall",
    "many_recall": "recall, many (over 100 images)",
    "medium_recall": "recall, medium (20 to 100)",
    "few_recall": "recall, few (under 20)",
}
ZERO_RECALL = "zero_recall_classes"
INTERVAL = "95% interval"  # beside a recall: that recall's; beside a change: the change's
_MOST_CLASSES, _WORST_SHOWN = 20, 10  # beyond so many classes a table shows the worst alone
_AT_ONCE = 2**20  # samples of resampled test sets


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well in a terminal: columns padded, all but the first flush right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(cells)) + " |"
        for cells in ([*zip(line, widths, strict=True)] for line in lines)
    )


def key_metrics(reports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name and title of what a table or card shows of reports: `KEY_METRICS`, and behind the worst class the mean
    recall of the worst share, where that is more than one class, and how many classes have recall 0, where any has.

    Reports of older records have neither.
    """
    more, shares = {}, {float(report.get("worst_share", 0)) for report in reports}
    if len(shares) == 1 and 0 not in shares:
        more["worst_share_recall"] = worst_share_title(shares.pop())
    if all(ZERO_RECALL in report for report in reports) and any(report[ZERO_RECALL] for report in reports):
        more[ZERO_RECALL] = "classes at recall 0"
    titles = [*KEY_METRICS.items()]
    place = 1 + [*KEY_METRICS].index("min_recall")
    return dict([*titles[:place], *more.items(), *titles[place:]])


def number_cell(name: str, value: float, sign: str = "") -> str:
    """A number as tables have it: three digits, of a number of classes none, or one of a mean over seeds."""
    digits = 3 if name != ZERO_RECALL else int(value != round(value))
    return f"{value:{sign}.{digits}f}"


def before_after_table(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    intervals: Mapping[str, tuple[float, float, float]] | None = None,
    per_class: bool = False,
    samples: str = "images",
) -> str:
    """Before, after and the change, with the spread over seeds where there are several, and intervals of recalls.

    Args:
        before, after: reports of `classification_metrics`, one a seed.
        intervals: of `paired_bootstrap`, of the changes, for a last column.
        per_class: whether to add the recall of every class; of more than 20 classes, the ten worst before and the
            ten worst after.
        samples: what they are called.
    """
    groups = {name: said_of(samples, title) for name, title in GROUP_METRICS.items() if name in before[0]}
    titles = key_metrics([*before, *after]) | groups
    num_summaries = len(titles)
    if per_class:
        titles |= {n: f"recall of {n.removeprefix('recall/')}" for n in classes_shown(before, after)}
    rows = []
    for name, title in titles.items():
        values_before, values_after = ([float(report[name]) for report in side] for side in (before, after))
        row = [title, *(mean_and_sd(values, name) for values in (values_before, values_after))]
        row.append(interval_cell(after, name))
        row.append(number_cell(name, float(np.mean(values_after) - np.mean(values_before)), "+"))
        if intervals is not None:
            row.append(" to ".join(number_cell(name, end, "+") for end in intervals.get(name, ())[1:]))
        rows.append(row)
    worst = [", ".join(dict.fromkeys(str(report["worst_class"]) for report in side)) for side in (before, after)]
    header = ["", "before", "after", INTERVAL, "change"] + ([INTERVAL] if intervals is not None else [])
    rows.insert(num_summaries, ["worst class", *worst] + [""] * (len(header) - 3))
    return markdown_table(header, rows)


def interval_cell(reports: Sequence[Mapping[str, Any]], name: str) -> str:
    """The interval of a recall, such as "0.612 to 0.701": over the seeds' reports from the lowest end to the highest.
    Empty for what has none."""
    low, high = (name.replace("recall", f"recall_{end}", 1) for end in ("low", "high"))
    if "recall" not in name or not all(low in report for report in reports):
        return ""
    return f"{min(report[low] for report in reports):.3f} to {max(report[high] for report in reports):.3f}"


def interval_note(samples: str, num_seeds: int = 1, worst_share: bool = False) -> str:
    """What belongs to a table with intervals of recalls; of the worst share's mean too, where the table has it."""
    of_share = " That of the worst share is `selmix_hf.worst_share_recall_interval`'s." if worst_share else ""
    several = "; over seeds from the lowest end to the highest, so that each seed's own lies within"
    return (
        f"The interval beside a recall is Clopper-Pearson's, over the choice of {samples}: those of the classes hold "
        f"all at once, and the worst class has one of its own{several if num_seeds > 1 else ''}.{of_share}"
    )


def classes_shown(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """The "recall/..." of a table: all, or of more than 20 classes the ten worst before (where recalls of the classes
    were measured then) and the ten worst after."""
    names = [name for name in after[0] if name.startswith("recall/")]
    if len(names) <= _MOST_CLASSES:
        return names
    worst: list[str] = []
    for side in [side for side in (before, after) if all(name in side[0] for name in names)]:
        worst += sorted(names, key=lambda name: np.mean([report[name] for report in side]))[:_WORST_SHOWN]
    return list(dict.fromkeys(worst))


def mean_and_sd(values: Sequence[float], name: str = "") -> str:
    """Such as "0.812 ± 0.013", with the sample standard deviation; the bare number where all are one. Of the metric of
    this name as in `number_cell`."""
    if len(set(values)) == 1:
        return number_cell(name, float(np.mean(values)))
    digits = 1 if name == ZERO_RECALL else 3
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def seeds_table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Mean and standard deviation over seeds: one row a method, one column a metric, and the intervals of the worst
    class and of the worst share.

    Args:
        reports: for each method, the S reports of `classification_metrics`.
    """
    titles = key_metrics([report for runs in reports.values() for report in runs])
    with_interval = {"min_recall", "worst_share_recall"}
    header, rows = [""], [[method] for method in reports]
    for name, title in titles.items():
        header += [title, *[INTERVAL] * (name in with_interval)]
        for row, runs in zip(rows, reports.values(), strict=True):
            row.append(mean_and_sd([report[name] for report in runs], name))
            row += [interval_cell(runs, name)] * (name in with_interval)
    return markdown_table(header, rows)


def paired_bootstrap(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    num_classes: int,
    num_resamples: int = 1000,
    seed: int = 0,
    train_counts: Sequence[int] | NDArray[np.integer] | None = None,
    tail_share: float = 0.1,
    worst_share: float = 0.1,
) -> dict[str, tuple[float, float, float]]:
    """How certain the change of each metric is, as far as the choice of test samples goes.

    Samples are drawn again with replacement within each class, and the same draw serves both sides and every seed.
    The spread over training seeds is not in the interval.

    Args:
        labels: true classes, shape N.
        before, after: predicted classes, S x N, or N for one seed.
        num_classes: K.
        train_counts, tail_share: see `metrics.class_groups`; with them there are intervals for `GROUP_METRICS` too.
        worst_share: of the classes, see `minimum.worst_share_mean`.

    Returns:
        for each metric: the change averaged over seeds, and the ends of its 95% percentile interval.

    Raises:
        ValueError: a class has no sample.
    """
    labels_N = np.asarray(labels)
    order_N = np.argsort(labels_N, kind="stable")
    counts_K = np.bincount(labels_N, minlength=num_classes)
    require_all_classes(torch.as_tensor(counts_K), where="the test set")
    sides = [np.atleast_2d(np.asarray(side))[:, order_N] for side in (before, after)]
    labels_N = labels_N[order_N]
    first_N = np.repeat(np.cumsum(counts_K) - counts_K, counts_K)  # where the sample's class begins
    random = np.random.default_rng(seed)
    groups = {} if train_counts is None else class_groups(train_counts, tail_share)

    def changes(rows_RN: np.ndarray) -> dict[str, np.ndarray]:
        before, after = (
            [_metrics(labels_N, predicted_N[rows_RN], counts_K, groups, worst_share) for predicted_N in side_SN]
            for side_SN in sides
        )
        return {
            name: np.mean([a[name] - b[name] for a, b in zip(after, before, strict=True)], 0) for name in before[0]
        }

    observed = {name: float(change[0]) for name, change in changes(np.arange(len(labels_N))[None]).items()}
    at_once = max(1, _AT_ONCE // len(labels_N))
    resampled = [
        changes(first_N + random.integers(0, counts_K[labels_N], (min(at_once, num_resamples - done), len(labels_N))))
        for done in range(0, num_resamples, at_once)
    ]
    intervals = {}
    for name, change in observed.items():
        low, high = np.quantile(np.concatenate([changed[name] for changed in resampled]), [0.025, 0.975])
        intervals[name] = (change, float(low), float(high))
    return intervals


def _metrics(
    labels_N: np.ndarray,
    predicted_RN: np.ndarray,
    counts_K: np.ndarray,
    groups: Mapping[str, np.ndarray],
    worst_share: float,
) -> dict[str, np.ndarray]:
    """As `classification_metrics` defines them, of R draws of samples sorted by class, from hits and predictions a
    class: no K x K matrix."""
    num_classes, starts_K = len(counts_K), np.cumsum(counts_K) - counts_K
    recall_RK = np.add.reduceat(predicted_RN == labels_N, starts_K, axis=1, dtype=np.int64) / counts_K
    of_draw_R1 = num_classes * np.arange(len(predicted_RN))[:, None]
    weight_RN = np.broadcast_to(1 / counts_K[labels_N], predicted_RN.shape)
    coverage_P = np.bincount((predicted_RN + of_draw_R1).ravel(), weight_RN.ravel(), len(predicted_RN) * num_classes)
    with np.errstate(divide="ignore"):  # 0 where a class has no hit
        g_mean_R, h_mean_R = np.exp(np.log(recall_RK).mean(1)), 1 / (1 / recall_RK).mean(1)
    report = {
        "mean_recall": recall_RK.mean(1),
        "min_recall": recall_RK.min(1),
        "worst_share_recall": worst_share_mean(torch.from_numpy(recall_RK), worst_share).numpy(),
        ZERO_RECALL: (recall_RK == 0).sum(1).astype(float),
        "g_mean": g_mean_R,
        "h_mean": h_mean_R,
        "smallest_coverage": coverage_P.reshape(-1, num_classes).min(1),
    }
    report |= {f"{group}_recall": recall_RK[:, mask_K].mean(1) for group, mask_K in groups.items()}
    if groups:
        report["min_head_tail_recall"] = np.minimum(report["head_recall"], report["tail_recall"])
    return report

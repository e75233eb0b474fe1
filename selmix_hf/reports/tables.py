"""Before and after: tables for the terminal and for a README, spread over seeds, paired bootstrap intervals.

Shape suffixes: S seeds, N test samples, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selmix_hf.method.minimum import worst_share_title

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


def said_of(samples: str, sentence: str) -> str:
    """A sentence about images, said of other samples; what stands in quotes, such as a class, stays."""

    def other(match: re.Match[str]) -> str:
        word = samples.removesuffix("s")
        return "a " * bool(match[1]) + (word.title() if match[2] == "I" else word) + match[3]

    return re.sub(r"(?<![\w'\"])(an )?(i|I)mage(s?)(?![\w'\"])", other, sentence)

"""Before and after: tables for the terminal and for a README, spread over seeds, paired bootstrap intervals.

Shape suffixes: S seeds, N test samples, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selmix_hf.reports.registry import METRICS, Place, Report, interval_names, titles_in

INTERVAL = "95% interval"  # beside a recall: that recall's; beside a change: the change's
_MOST_CLASSES, _WORST_SHOWN = 20, 10  # beyond so many classes a table shows the worst alone
_SAME = 1e-6  # records have six digits behind the point


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well in a terminal: columns padded, all but the first flush right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(cells)) + " |"
        for cells in ([*zip(line, widths, strict=True)] for line in lines)
    )


def values_of(reports: Sequence[Report], name: str) -> list[Any]:
    """Of every report; none where one lacks it, as records of older versions may."""
    found = [report[name] for report in reports if name in report]
    return found if len(found) == len(reports) else []


def number_cell(name: str, value: float, sign: str = "") -> str:
    """A number as tables have it: three digits, of a number of classes none, or one of a mean over seeds."""
    digits = int(value != round(value)) if _is_count(name) else 3
    return f"{value:{sign}.{digits}f}"


def mean_and_sd(values: Sequence[float], name: str = "") -> str:
    """Such as "0.812 ± 0.013", with the sample standard deviation; the bare number where all are one, empty for none.
    Of the metric of this name as in `number_cell`."""
    if len(set(values)) == 1:
        return number_cell(name, float(np.mean(values)))
    digits = 1 if _is_count(name) else 3
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}" if len(values) else ""


def interval_cell(reports: Sequence[Report], name: str) -> str:
    """The interval of a recall, such as "0.612 to 0.701": over the seeds' reports from the lowest end to the highest.
    Empty for what has none."""
    low, high = (values_of(reports, end) for end in interval_names(name))
    return f"{min(low):.3f} to {max(high):.3f}" if low and high else ""


def _is_count(name: str) -> bool:
    return name in METRICS and METRICS[name].is_count


def row_titles(reports: Sequence[Report], samples: str = "images", objective: str | None = None) -> dict[str, str]:
    """Names and titles of the rows of a table of reports, classes aside.

    Args:
        reports: see `registry.titles_in`.
        samples: what they are called.
        objective: what was optimised; it has a row of its own, the first, where no metric of that name and value has
            one: psi, or where that was not recorded the metric of that name. The title says where it is balanced, and
            the metric of that name is not.
    """
    titles = {name: said_of(samples, title) for name, title in titles_in(reports).items()}
    if objective is None or (objective in titles and _is_psi(objective, reports)):
        return titles
    balanced = f"balanced_{objective}"
    own = next((name for name in ("psi", objective, balanced) if any(name in report for report in reports)), None)
    said = f" ({METRICS[balanced].title})" if balanced in METRICS and _is_psi(balanced, reports) else ""
    return ({} if own is None else {own: f"objective `{objective}`{said}"}) | titles


def _is_psi(name: str, reports: Sequence[Report]) -> bool:
    """A function of one's own may have a metric's name and another value."""
    both = [(report["psi"], report[name]) for report in reports if {"psi", name} <= report.keys()]
    return all(abs(psi - metric) <= _SAME for psi, metric in both)


def comparison_table(
    titles: Mapping[str, str],
    before: Sequence[Report],
    after: Sequence[Report],
    recall_intervals: bool = True,
    change_intervals: Mapping[str, tuple[float, float, float]] | None = None,
) -> str:
    """A row for each of these titles; a cell is blank where a report lacks its number.

    Args:
        titles: by the name of what the row shows.
        before, after: reports, one a seed; without the former there is neither their column nor that of the change.
        recall_intervals: whether there is a column of the intervals of recalls.
        change_intervals: of `paired_bootstrap`, for a last column.
    """
    header = ["", *["before"] * bool(before), "after", *[INTERVAL] * recall_intervals, *["change"] * bool(before)]
    header += [INTERVAL] * (change_intervals is not None)
    rows = []
    for name, title in titles.items():
        old, new = values_of(before, name), values_of(after, name)
        row = [title, *[_cell(old, name)] * bool(before), _cell(new, name)]
        row += [interval_cell(after, name)] * recall_intervals + [_change_cell(old, new, name)] * bool(before)
        if change_intervals is not None:
            row.append(" to ".join(number_cell(name, end, "+") for end in change_intervals.get(name, ())[1:]))
        rows.append(row)
    return markdown_table(header, rows)


def _cell(values: Sequence[Any], name: str) -> str:
    """Of all seeds: names as they are, numbers by mean and spread."""
    if values and isinstance(values[0], str):
        return ", ".join(dict.fromkeys(values))
    return mean_and_sd([float(value) for value in values], name)


def _change_cell(before: Sequence[Any], after: Sequence[Any], name: str) -> str:
    numbers = bool(before and after) and not isinstance(after[0], str)
    return number_cell(name, float(np.mean(after) - np.mean(before)), "+") if numbers else ""


def before_after_table(
    before: Sequence[Report],
    after: Sequence[Report],
    intervals: Mapping[str, tuple[float, float, float]] | None = None,
    per_class: bool = False,
    samples: str = "images",
    objective: str | None = None,
) -> str:
    """Before, after and the change, with the spread over seeds where there are several, and intervals of recalls.

    Args:
        before, after: reports of `classification_metrics`, one a seed.
        intervals: of `paired_bootstrap`, of the changes, for a last column.
        per_class: whether to add the recall of every class; of more than 20 classes, the ten worst before and the
            ten worst after.
        samples, objective: see `row_titles`.
    """
    titles = row_titles([*before, *after], samples, objective) | {"worst_class": "worst class"}
    if per_class:
        titles |= {name: f"recall of {name.removeprefix('recall/')}" for name in classes_shown(before, after)}
    return comparison_table(titles, before, after, change_intervals=intervals)


def interval_note(samples: str, num_seeds: int = 1, worst_share: bool = False) -> str:
    """What belongs to a table with intervals of recalls; of the worst share's mean too, where the table has it."""
    of_share = " That of the worst share is `selmix_hf.worst_share_recall_interval`'s." if worst_share else ""
    several = "; over seeds from the lowest end to the highest, so that each seed's own lies within"
    return (
        f"The interval beside a recall is Clopper-Pearson's, over the choice of {samples}: those of the classes hold "
        f"all at once, and the worst class has one of its own{several if num_seeds > 1 else ''}.{of_share}"
    )


def classes_of(reports: Sequence[Report]) -> list[str]:
    """The "recall/..." of all classes that a report has."""
    return list(dict.fromkeys(name for report in reports for name in report if name.startswith("recall/")))


def classes_shown(before: Sequence[Report], after: Sequence[Report]) -> list[str]:
    """The "recall/..." of a table: all, or of more than 20 classes the ten worst before (where recalls of the classes
    were measured then) and the ten worst after."""
    names = classes_of(after)
    if len(names) <= _MOST_CLASSES:
        return names
    worst: list[str] = []
    for side in [side for side in (before, after) if classes_of(side)]:
        worst += sorted(names, key=lambda name: np.mean(values_of(side, name) or [np.inf]))[:_WORST_SHOWN]
    return list(dict.fromkeys(worst))


def seeds_table(reports: Mapping[str, Sequence[Report]]) -> str:
    """Mean and standard deviation over seeds: one row a method, one column a metric, and the intervals of the worst
    class and of the worst share.

    Args:
        reports: for each method, the S reports of `classification_metrics`.
    """
    titles = titles_in([report for runs in reports.values() for report in runs], [Place.KEY])
    header, rows = [""], [[method] for method in reports]
    for name, title in titles.items():
        with_interval = METRICS[name].interval is not None
        header += [title, *[INTERVAL] * with_interval]
        for row, runs in zip(rows, reports.values(), strict=True):
            row += [mean_and_sd(values_of(runs, name), name), *[interval_cell(runs, name)] * with_interval]
    return markdown_table(header, rows)


def said_of(samples: str, sentence: str) -> str:
    """A sentence about images, said of other samples; what stands in quotes, such as a class, stays."""

    def other(match: re.Match[str]) -> str:
        word = samples.removesuffix("s")
        return "a " * bool(match[1]) + (word.title() if match[2] == "I" else word) + match[3]

    return re.sub(r"(?<![\w'\"])(an )?(i|I)mage(s?)(?![\w'\"])", other, sentence)

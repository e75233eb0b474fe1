"""The reported metrics, each defined once: what a report, a table, a card, a plot or a bootstrap knows of one.

A metric is added by an entry in `METRICS`. Shape suffix: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from selmix_hf.method.confusion import confusion_matrix
from selmix_hf.method.intervals import min_recall_interval, worst_share_recall_interval
from selmix_hf.method.minimum import worst_number, worst_share_mean, worst_share_title
from selmix_hf.method.objective_names import tail_classes
from selmix_hf.method.objectives import geometric_mean, harmonic_mean

Report = Mapping[str, Any]  # of `metrics.classification_metrics`
MANY_ABOVE, FEW_BELOW = 100, 20  # training samples; the split of Liu et al. 2019 (OLTR, arXiv 1904.05160)


def class_groups(train_counts: Sequence[int] | NDArray[np.integer], tail_share: float = 0.1) -> dict[str, Tensor]:
    """Masks (K) of "head" and "tail", and of those of "many" (over 100 training samples), "medium" and "few" (under
    20) that have classes; see `objective_names.tail_classes` for `tail_share`."""
    frequency_K = torch.as_tensor(np.asarray(train_counts))
    tail_K = tail_classes(frequency_K, tail_share)
    many_K, few_K = frequency_K > MANY_ABOVE, frequency_K < FEW_BELOW
    groups = {"head": ~tail_K, "tail": tail_K, "many": many_K, "medium": ~many_K & ~few_K, "few": few_K}
    return {name: mask_K for name, mask_K in groups.items() if bool(mask_K.any())}


@dataclass(frozen=True)
class Rates:
    """What metrics are made of: of one confusion matrix, or of many at once, with a dimension in front; of the classes
    that have samples, M, which are all K unless others are left out.

    Attributes:
        recall: of each class, ... x M.
        coverage: of each class, its share of the predictions in fair shares, M times a column's sum, ... x M.
        worst_share: of the classes, see `minimum.worst_share_mean`.
        groups: masks (bool, M) by name, those of `class_groups`; empty without training frequencies.
        counts: of one matrix, K x K; None for many, which would take too much memory.
        leaves_out: whether classes without samples are left out, so that M must be told.
    """

    recall: Tensor
    coverage: Tensor
    worst_share: float
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Tensor | None = None
    leaves_out: bool = False

    def mean_of(self, group: str) -> Tensor | None:
        """Mean recall of a group; None without one."""
        return self.recall[..., self.groups[group]].mean(-1) if group in self.groups else None


class Place(Enum):
    """Where tables have a metric; rows come in this order."""

    KEY = "key"  # also a column of tables of methods, and in a card's metadata
    OVERALL = "overall"  # in a card's metadata too
    HEAD_AND_TAIL = "head and tail"
    GROUP = "group"


@dataclass(frozen=True, kw_only=True)
class ReportedMetric:
    """One number of every report.

    Attributes:
        title: in tables.
        of: its value from `Rates`, shape ...; None where these do not tell it: then a report, or the bootstrap, is
            without it.
        place: in tables; None for a number that they do not show.
        title_in: its title in a table of these reports, None where they need no row of it; default is `title`.
        is_count: it is a number of classes, without digits behind the point.
        higher_is_better: a card's metadata have nothing else, since the Hub ranks by them.
        interval: the ends of its 95% interval, from counts (K x K) and `worst_share`.
        beside: what a report has behind it, by name, from the rates and the class names (M).
    """

    title: str
    of: Callable[[Rates], Tensor | None]
    place: Place | None = None
    title_in: Callable[[Sequence[Report]], str | None] | None = None
    is_count: bool = False
    higher_is_better: bool = True
    interval: Callable[[ArrayLike, float], tuple[float, float]] | None = None
    beside: Callable[[Rates, Sequence[str]], dict[str, Any]] | None = None


def _worst_class(rates: Rates, class_names: Sequence[str]) -> dict[str, Any]:
    return {"worst_class": class_names[int(rates.recall.argmin())]}


def _worst_share(rates: Rates, class_names: Sequence[str]) -> dict[str, Any]:
    """Where it is more than one class, and so not the minimum."""
    more = worst_number(rates.worst_share, len(class_names)) > 1
    return {"worst_share": rates.worst_share} if more else {}


def _worst_share_in(reports: Sequence[Report]) -> str | None:
    """Where all have the same."""
    shares = {report.get("worst_share") for report in reports}
    share = shares.pop() if len(shares) == 1 else None
    return None if share is None else worst_share_title(share)


def _zero_recall_in(reports: Sequence[Report]) -> str | None:
    """Where all have counted them and one has any."""
    counted = [report.get("zero_recall_classes") for report in reports]
    return METRICS["zero_recall_classes"].title if None not in counted and any(counted) else None


def _accuracy(rates: Rates) -> Tensor | None:
    return None if rates.counts is None else rates.counts.diagonal().sum().double() / rates.counts.sum()


def _macro_f1(rates: Rates) -> Tensor | None:
    """scikit-learn's: of the classes that have a sample or a prediction, by the samples as they are."""
    if rates.counts is None:
        return None
    both_K = rates.counts.sum(0) + rates.counts.sum(1)
    return (2 * rates.counts.diagonal().double() / both_K)[both_K > 0].mean()


def _balanced_macro_f1(rates: Rates) -> Tensor | None:
    """Of the classes that have samples, as if each had as many."""
    if rates.counts is None:
        return None
    confusion_KK = confusion_matrix(rates.counts, "balanced", "leave out")
    f1_K = 2 * confusion_KK.diagonal() / (confusion_KK.sum(0) + confusion_KK.sum(1))
    return f1_K[rates.counts.sum(1) > 0].mean()


def _smaller_of_head_and_tail(rates: Rates) -> Tensor | None:
    head, tail = rates.mean_of("head"), rates.mean_of("tail")
    return None if head is None or tail is None else torch.minimum(head, tail)


METRICS: dict[str, ReportedMetric] = {  # in the order of reports
    "accuracy": ReportedMetric(title="accuracy", of=_accuracy, place=Place.OVERALL),
    "classes_measured": ReportedMetric(
        title="classes with samples",
        of=lambda rates: torch.tensor(rates.recall.shape[-1]) if rates.leaves_out else None,
        place=Place.OVERALL,
        is_count=True,
        higher_is_better=False,
    ),
    "mean_recall": ReportedMetric(title="mean recall", of=lambda rates: rates.recall.mean(-1), place=Place.KEY),
    "min_recall": ReportedMetric(
        title="worst-class recall",
        of=lambda rates: rates.recall.amin(-1),
        place=Place.KEY,
        interval=lambda counts, worst_share: min_recall_interval(counts, absent="leave out"),
        beside=_worst_class,
    ),
    "worst_share_recall": ReportedMetric(
        title="mean recall of the worst share",
        of=lambda rates: worst_share_mean(rates.recall, rates.worst_share),
        place=Place.KEY,
        title_in=_worst_share_in,
        interval=lambda counts, worst_share: worst_share_recall_interval(counts, worst_share, absent="leave out"),
        beside=_worst_share,
    ),
    "zero_recall_classes": ReportedMetric(
        title="classes at recall 0",
        of=lambda rates: (rates.recall == 0).sum(-1),
        place=Place.KEY,
        title_in=_zero_recall_in,
        is_count=True,
        higher_is_better=False,
    ),
    "g_mean": ReportedMetric(title="G-mean", of=lambda rates: geometric_mean(rates.recall), place=Place.KEY),
    "h_mean": ReportedMetric(title="H-mean", of=lambda rates: harmonic_mean(rates.recall), place=Place.KEY),
    "macro_f1": ReportedMetric(title="macro-F1", of=_macro_f1, place=Place.OVERALL),
    "balanced_macro_f1": ReportedMetric(title="balanced macro-F1", of=_balanced_macro_f1),
    "smallest_coverage": ReportedMetric(
        title="smallest coverage", of=lambda rates: rates.coverage.amin(-1), place=Place.KEY
    ),
    "head_recall": ReportedMetric(title="recall, head", of=lambda rates: rates.mean_of("head")),
    "tail_recall": ReportedMetric(title="recall, tail", of=lambda rates: rates.mean_of("tail")),
    "many_recall": ReportedMetric(
        title=f"recall, many (over {MANY_ABOVE} images)", of=lambda rates: rates.mean_of("many"), place=Place.GROUP
    ),
    "medium_recall": ReportedMetric(
        title=f"recall, medium ({FEW_BELOW} to {MANY_ABOVE})",
        of=lambda rates: rates.mean_of("medium"),
        place=Place.GROUP,
    ),
    "few_recall": ReportedMetric(
        title=f"recall, few (under {FEW_BELOW})", of=lambda rates: rates.mean_of("few"), place=Place.GROUP
    ),
    "min_head_tail_recall": ReportedMetric(
        title="smaller of head and tail recall", of=_smaller_of_head_and_tail, place=Place.HEAD_AND_TAIL
    ),
}


def lower_is_better(metric: str) -> bool:
    """Of a metric_for_best_model, which may have the name of a set in front; that of a loss or of a violation too."""
    lower = [name for name, one in METRICS.items() if not one.higher_is_better]
    return metric.endswith(("loss", "violation", *lower))


def metric_title(name: str) -> str:
    """Of a metric or of any other objective, for a person."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ")


def titles_in(reports: Sequence[Report], places: Iterable[Place] = Place) -> dict[str, str]:
    """Name and title of the rows of a table of these reports: metrics at these places that one of the reports has."""
    titles = {}
    for place, (name, metric) in product(places, METRICS.items()):
        if metric.place is place and any(name in report for report in reports):
            titles[name] = metric.title if metric.title_in is None else metric.title_in(reports)
    return {name: title for name, title in titles.items() if title is not None}


def interval_names(name: str) -> tuple[str, str]:
    """What reports call the ends of a metric's 95% interval, such as "min_recall_low", and of a class's, such as
    "recall_low/cat"."""
    kind, slash, of_class = name.partition("/")
    low, high = (f"{kind}_{end}{slash}{of_class}" for end in ("low", "high"))
    return low, high

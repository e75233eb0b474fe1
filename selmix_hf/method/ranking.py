"""Which of two classifiers is the better one: by the objective, and where that ties by what a user would want next.

Shape suffix: K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selmix_hf.method.confusion import as_counts
from selmix_hf.method.objectives import Objective

CURE = (
    "Where it is 0 / 0, as for a class that is never predicted, write the ratio as x / (y + 1e-9), or set its value "
    "there by torch.where."
)


def has_score(score: float) -> bool:
    """Whether a score can be compared: not where psi is NaN or plus infinity."""
    return score < math.inf


def comparable(score: float) -> float:
    """To 12 digits, since sums of other classes leave rounding errors in equal ones; -inf where there is none."""
    return float(f"{score:.12g}") if has_score(score) else -math.inf


def ascending_recalls(counts: Tensor) -> tuple[float, ...]:
    """The K recalls of counts (K x K, rows true classes), the worst first."""
    counts = as_counts(counts)
    return tuple((counts.diagonal().double() / counts.sum(1)).sort().values.tolist())


def ranking(objective: Objective, counts: Tensor) -> tuple[float, ...]:
    """What orders classifiers that were looked at on one set, from raw counts (K x K): the larger tuple is the better.

    `Objective.score` comes first, then the recalls in ascending order. A minimum, G- or H-mean is 0 while any class
    has no hit: the better of two such classifiers has fewer classes without one, else the better worst class among
    the others, and so on.
    """
    return comparable(objective.score(counts)), *ascending_recalls(counts)


def where_it_has_no_score(objective: Objective, num_classes: int) -> str | None:
    """For a warning: the first kind of confusion matrix, of those that are tried, on which an objective has no score,
    and what to do; None where it has one on all. Training takes its derivative on smoothed matrices, the choice of the
    checkpoint its value on raw ones."""
    perfect = 10 * torch.eye(num_classes, dtype=torch.long)
    unpredicted = torch.cat([perfect[:-1], perfect[:1]])  # the last class is taken for the first
    without_hit = unpredicted.clone()
    without_hit[0, -1] = 10
    tried = {
        "a class has no hit": without_hit,
        "a class is never predicted": unpredicted,
        "every sample is taken for one class": perfect[:1].repeat(num_classes, 1),
    }
    for what, counts in tried.items():
        score = objective.score(counts)
        if not has_score(score):
            return (
                f"objective {objective.name!r} is {score} where {what}. Training goes on all the same, but an "
                f"evaluation like that has no score and is not kept as the best. {CURE}"
            )
    return None

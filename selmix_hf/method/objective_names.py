"""Objectives by name, and those that need the training frequencies: head and tail classes.

Definitions after SelMix (arXiv 2403.18301, table 1). Shape suffix: K classes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from selmix_hf.method.confusion import resolve_class_prior
from selmix_hf.method.minimum import MinimumMetric, check_worst_share
from selmix_hf.method.objectives import (
    Constraint,
    Metric,
    Objective,
    SmoothMetric,
    coverages,
    g_mean,
    h_mean,
    macro_f1,
    mean_recall,
    recalls,
)


def tail_classes(class_counts: Sequence[int] | Tensor, tail_share: float = 0.1) -> Tensor:
    """Mask (bool, K) of the least frequent classes: round(tail_share K) of them, at least one and not all.

    Ties go to the higher class index, so the mask depends on nothing else.
    """
    counts_K = torch.as_tensor(class_counts)
    if not 0 < tail_share < 1:
        raise ValueError(f"tail_share must lie between 0 and 1, found {tail_share}.")
    num_tail = min(max(round(tail_share * len(counts_K)), 1), len(counts_K) - 1)
    mask_K = torch.zeros(len(counts_K), dtype=torch.bool)
    mask_K[counts_K.argsort(descending=True, stable=True)[-num_tail:]] = True
    return mask_K


def _group_means(of_classes: Callable[[Tensor], Tensor], tail_K: Tensor) -> Callable[[Tensor], Tensor]:
    def means(confusion: Tensor) -> Tensor:
        values_K, mask_K = of_classes(confusion), tail_K.to(confusion.device)
        if len(values_K) != len(mask_K):
            raise ValueError(f"class_counts has {len(mask_K)} entries, but there are {len(values_K)} classes.")
        return torch.stack([values_K[~mask_K].mean(), values_K[mask_K].mean()])

    return means


_Known = TypeVar("_Known")

OBJECTIVES: dict[str, Callable[..., Metric]] = {
    "mean_recall": lambda **_: SmoothMetric("mean_recall", mean_recall),
    "g_mean": lambda **_: SmoothMetric("g_mean", g_mean),
    "h_mean": lambda **_: SmoothMetric("h_mean", h_mean),
    "macro_f1": lambda **_: SmoothMetric("macro_f1", macro_f1),
    "min_recall": lambda rate, memory, **_: MinimumMetric("min_recall", recalls, rate, memory),
    "worst_share_recall": lambda rate, memory, share, **_: MinimumMetric(
        "worst_share_recall", recalls, rate, memory, share
    ),
    "min_head_tail_recall": lambda tail, rate, memory, **_: MinimumMetric(
        "min_head_tail_recall", _group_means(recalls, tail()), rate, memory
    ),
}


CONSTRAINTS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "coverage": lambda alpha, **_: lambda confusion: len(confusion) * coverages(confusion) - alpha,
    "head_tail_coverage": lambda alpha, tail, **_: (
        lambda confusion: len(confusion) * _group_means(coverages, tail())(confusion) - alpha
    ),
}


# under a long-tailed prior "every class gets its share of the predictions" forces a bad classifier, and F1 rewards
# ignoring the tail
_BALANCED_BY_DEFAULT = {"macro_f1", *CONSTRAINTS}


def register_objective(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Make a differentiable psi(C) available by name, so that configurations and command lines can use it.

    Raises:
        TypeError: the function cannot be called.
    """
    if not callable(function):
        raise TypeError(f"register_objective({name!r}, ...) takes a function psi(C), found {function!r}.")
    OBJECTIVES[name] = lambda **_: SmoothMetric(name, function)


def get_objective(
    name: str | Callable[[Tensor], Tensor] | Objective,
    constraints: Mapping[str, float] | None = None,
    *,
    class_prior: str | Sequence[float] | None = None,
    class_counts: Sequence[int] | Tensor | None = None,
    tail_share: float = 0.1,
    worst_share: float = 0.1,
    min_rate: float = 10.0,
    min_memory: float = 0.8,
    constraint_update: str = "projected_gradient",
    constraint_rate: float = 0.3,
    tolerance: float = 0.0,
) -> Objective:
    """Build an objective.

    Args:
        name: a key of `OBJECTIVES`, a callable psi(C) -> scalar made of differentiable torch operations, or an
            `Objective` (returned as it is; constraints and class_prior are its own and must not be given beside it).
        constraints: such as {"coverage": 0.95}: cov_j >= 0.95 / K for every class j; "head_tail_coverage" asks it of
            the mean over head classes and of the mean over tail classes. This is SelMix's "fairness constraint".
        class_prior: "validation", "balanced" or K weights; default "balanced" for macro_f1, which then is what reports
            call balanced_macro_f1, and with constraints, "validation" otherwise (recalls do not depend on it).
        class_counts: training samples of each class, which define head and tail; needed by the objectives that have
            them in their name.
        tail_share: share of the classes, the least frequent ones, that are the tail (at least one).
        worst_share: share of the classes, those of the lowest recall, whose mean recall is "worst_share_recall".
        min_rate: eta of `MinimumMetric`.
        min_memory: memory of `MinimumMetric`.
        constraint_update: see `Constraint`.
        constraint_rate: see `Constraint`.
        tolerance: largest violation that still counts as feasible, in relative coverage (0.01: .94 for .95).

    Raises:
        ValueError: an unknown name (with the nearest known one), a level or worst_share outside (0, 1], missing
            class_counts, weights of class_prior that are not positive, or an `Objective` with constraints or
            class_prior beside it.
    """
    if isinstance(name, Objective):
        given = {"constraints": constraints or None, "class_prior": class_prior}
        wrong = [f"{option}={value!r}" for option, value in given.items() if value is not None]
        if wrong:
            raise ValueError(
                f"objective {name.name!r} is an Objective, which has constraints and class_prior of its own: found "
                f"{' and '.join(wrong)} beside it. Leave them out, or give them to get_objective where it is built."
            )
        return name
    if constraint_update not in ("projected_gradient", "exponential"):
        raise ValueError(
            f"constraint_update must be 'projected_gradient' or 'exponential', found {constraint_update!r}."
        )
    check_worst_share(worst_share)
    if not 0 <= min_memory < 1:
        raise ValueError(f"min_memory must lie in [0, 1), found {min_memory}.")
    for option, rate in (("min_rate", min_rate), ("constraint_rate", constraint_rate)):
        if not 0 < rate < math.inf:
            raise ValueError(f"{option} must be a positive number, found {rate}.")

    def tail() -> Tensor:
        if class_counts is None:
            raise ValueError("head and tail are defined by training frequency: give class_counts, one number a class.")
        return tail_classes(class_counts, tail_share)

    metric: Metric
    if callable(name):
        metric = SmoothMetric(getattr(name, "__name__", type(name).__name__), name)
    else:
        metric = _look_up(OBJECTIVES, name, "objective")(
            rate=min_rate, memory=min_memory, share=worst_share, tail=tail
        )
    built = []
    if constraints and not isinstance(constraints, Mapping):
        raise ValueError(f"constraints must map names to levels, such as {{'coverage': 0.95}}, found {constraints!r}.")
    for key, alpha in (constraints or {}).items():
        slack = _look_up(CONSTRAINTS, key, "constraint")
        if not isinstance(alpha, int | float) or not 0 < alpha <= 1:
            raise ValueError(f"the level of constraint {key!r} must lie in (0, 1], found {alpha!r}.")
        if key == "head_tail_coverage":
            tail()
        built.append(Constraint(key, slack(alpha=float(alpha), tail=tail), constraint_update, constraint_rate))
    if class_prior is None:
        class_prior = "balanced" if built or metric.name in _BALANCED_BY_DEFAULT else "validation"
    elif isinstance(class_prior, str):
        resolve_class_prior(class_prior, torch.ones(2))
    else:
        class_prior = tuple(_weights(class_prior))
    return Objective(metric, tuple(built), class_prior, tolerance)


def known_names(name: str, known: Iterable[str]) -> str:
    """For an error: the nearest of the known names, if one is near, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(known)}."


def _weights(class_prior: Sequence[float]) -> list[float]:
    try:
        weights = [float(weight) for weight in class_prior]
    except (TypeError, ValueError):
        weights = []
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(
            f"class_prior must be 'validation', 'balanced' or K positive numbers, one a class, found {class_prior!r}."
        )
    return weights


def _look_up(registry: Mapping[str, _Known], name: str, kind: str) -> _Known:
    if name in registry:
        return registry[name]
    raise ValueError(f"unknown {kind} {name!r}; {known_names(str(name), registry)}")

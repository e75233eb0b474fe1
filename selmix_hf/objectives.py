"""Objectives psi(C): metrics of a confusion matrix, constraints on it, and their multipliers.

An objective is one metric and any number of constraints. Metrics that are a minimum (worst class, worst group, worst
share) and constraints are turned into a smooth Lagrangian by multipliers, which are recomputed from statistics once a
period by stateless functions; whoever trains keeps the multipliers.

    L(C) = psi_lambda(C) + sum_j mu_j slack_j(C)

C is K x K, rows true classes, entries summing to 1; definitions after SelMix (arXiv 2403.18301, table 1).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix_hf.confusion import confusion_matrix, resolve_class_prior, smooth_confusion
from selmix_hf.minimum import MinimumMetric, check_worst_share

Multipliers = dict[str, Tensor]

INFEASIBLE = -1e6  # no score of a matrix that violates a constraint is above it
_SOFT_SHARE = 0.75  # of what the multipliers of a minimum follow, the rest is counted
_ROUNDING = 1e-9  # K * (1 / K) may fall short of 1 by a rounding error


def recalls(confusion: Tensor) -> Tensor:
    """Recall of each class, C_kk / pi_k, shape K."""
    return confusion.diagonal() / confusion.sum(1)


def coverages(confusion: Tensor) -> Tensor:
    """Share of the predictions that each class gets, cov_j = sum_i C_ij, shape K."""
    return confusion.sum(0)


def mean_recall(confusion: Tensor) -> Tensor:
    """Arithmetic mean of the recalls."""
    return recalls(confusion).mean()


def g_mean(confusion: Tensor) -> Tensor:
    """Geometric mean of the recalls."""
    recall_K = recalls(confusion)
    if bool((recall_K <= 0).any()):
        return recall_K.prod()  # exactly zero, without the NaN gradient of log(0)
    return recall_K.log().mean().exp()


def h_mean(confusion: Tensor) -> Tensor:
    """Harmonic mean of the recalls."""
    return len(confusion) / recalls(confusion).reciprocal().sum()


def macro_f1(confusion: Tensor) -> Tensor:
    """Mean over classes of 2 C_kk / (row sum + column sum)."""
    return (2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))).mean()


@dataclass(frozen=True)
class SmoothMetric:
    """A differentiable psi(C); needs no multipliers."""

    name: str
    function: Callable[[Tensor], Tensor]

    def value(self, confusion: Tensor) -> Tensor:
        return self.function(confusion)

    def lagrangian(self, confusion: Tensor, multiplier: Tensor | None) -> Tensor:
        return self.function(confusion)

    def initial_multiplier(self, num_classes: int) -> Tensor | None:
        return None

    def update_multiplier(self, multiplier: Tensor | None, confusion: Tensor, class_counts: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class Constraint:
    """slack_j(C) >= 0 for every j, with multipliers mu_j >= 0.

    Args:
        slack: C -> slack, shape J; non-negative where the constraint holds. In relative units: coverage slack is
            K cov_j - alpha, so that one rate suits any number of classes.
        update: "projected_gradient" accumulates, mu <- clip(mu - rate * slack, 0, maximum); "exponential" is the
            authors' memoryless form, max(0, maximum (1 - exp(slack / temperature))).
        rate: step of the projected gradient.
        maximum: largest multiplier.
        temperature: tau of the exponential form, in the same relative units.
    """

    name: str
    slack: Callable[[Tensor], Tensor]
    update: str = "projected_gradient"
    rate: float = 0.3
    maximum: float = 100.0
    temperature: float = 0.01

    def lagrangian(self, confusion: Tensor, multiplier: Tensor | None) -> Tensor:
        slack_J = self.slack(confusion)
        if multiplier is None:
            return slack_J.sum() * 0
        return (multiplier.to(slack_J) * slack_J).sum()

    def initial_multiplier(self, num_classes: int) -> Tensor:
        return torch.zeros_like(self.slack(torch.eye(num_classes, dtype=torch.float64) / num_classes))

    def update_multiplier(self, multiplier: Tensor | None, confusion: Tensor) -> Tensor:
        slack_J = self.slack(confusion).double()
        if self.update == "exponential":
            return (self.maximum * -torch.expm1(slack_J / self.temperature)).clamp(min=0)
        previous_J = torch.zeros_like(slack_J) if multiplier is None else multiplier.to(slack_J)
        return (previous_J - self.rate * slack_J).clamp(0, self.maximum)


@dataclass(frozen=True)
class Objective:
    """A metric with constraints, ready for `gain.metric_gradient` and the trainer.

    Attributes:
        metric: `SmoothMetric`, `MinimumMetric`, or anything with their methods.
        constraints: each with `slack`, `lagrangian`, `initial_multiplier`, `update_multiplier`.
        class_prior: the prior that C is scaled to; see `confusion.resolve_class_prior`.
        tolerance: largest violation (relative units of the constraint) that still counts as feasible.
    """

    metric: SmoothMetric | MinimumMetric
    constraints: tuple[Constraint, ...] = ()
    class_prior: str | tuple[float, ...] = "validation"
    tolerance: float = 0.0

    @property
    def name(self) -> str:
        """Such as "mean_recall" or "mean_recall_coverage"."""
        return "_".join([self.metric.name, *(constraint.name for constraint in self.constraints)])

    def value(self, confusion: Tensor) -> Tensor:
        """psi(C), without multipliers."""
        return self.metric.value(confusion)

    def lagrangian(self, confusion: Tensor, multipliers: Mapping[str, Tensor] | None = None) -> Tensor:
        """The smooth function whose gradient steers the training, a scalar."""
        multipliers = multipliers or {}
        total = self.metric.lagrangian(confusion, multipliers.get(self.metric.name))
        for constraint in self.constraints:
            total = total + constraint.lagrangian(confusion, multipliers.get(constraint.name))
        return total

    def initial_multipliers(self, num_classes: int) -> Multipliers:
        multipliers = {c.name: c.initial_multiplier(num_classes) for c in self.constraints}
        own = self.metric.initial_multiplier(num_classes)
        return multipliers if own is None else {self.metric.name: own, **multipliers}

    def update_multipliers(
        self, multipliers: Mapping[str, Tensor], counts: Tensor, soft_counts: Tensor | None = None
    ) -> Multipliers:
        """Multipliers of the next period from the current ones and the counts (K x K) of the validation set; those of
        the metric, where soft counts are given (`soft_gain`), for three quarters from soft recalls, and for one from
        counted ones: where logits are small, soft recalls hardly differ. One sample moves soft ones less, so that a
        class of typical size, the harmonic mean, stands for the smallest one."""
        smoothed_KK, sizes_K = smooth_confusion(counts, self.class_prior), counts.sum(1)
        updated = {c.name: c.update_multiplier(multipliers.get(c.name), smoothed_KK) for c in self.constraints}
        if soft_counts is not None:
            smoothed_KK = torch.lerp(smoothed_KK, smooth_confusion(soft_counts, self.class_prior), _SOFT_SHARE)
            sizes_K = (1 / (1 / soft_counts.sum(1)).mean()).expand(len(counts))
        own = self.metric.update_multiplier(multipliers.get(self.metric.name), smoothed_KK, sizes_K)
        return updated if own is None else {self.metric.name: own, **updated}

    def violation(self, confusion: Tensor) -> float:
        """Largest violation over all constraints, 0 where all hold."""
        return max([0.0, *(-float(c.slack(confusion).min()) for c in self.constraints)])

    def score(self, counts: Tensor) -> float:
        """What the best checkpoint is chosen by, from raw counts.

        psi where feasible; else far below any psi, and lower the larger the violation.
        """
        raw_KK = confusion_matrix(counts, self.class_prior)
        violation = self.violation(raw_KK)
        return float(self.value(raw_KK)) if violation <= self.tolerance + _ROUNDING else INFEASIBLE * (1 + violation)


def default_target_share(objective: Objective, num_classes: int) -> float:
    """The `target_share` of `pair_distribution.pair_distribution` that suits an objective.

    .97, nearly all pairs that help alike, for one smooth function of up to 100 classes; .5 where multipliers move what
    is wanted from look to look, and for more classes, whose pairs outnumber by far what is drawn. Measured at K = 10
    and K = 1000: docs/analysis.md, docs/defaults.md.
    """
    steered = bool(objective.constraints) or isinstance(objective.metric, MinimumMetric)
    return 0.5 if steered or num_classes > 100 else 0.97


# --- head and tail -----------------------------------------------------------------------------------------------


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


# --- registry ----------------------------------------------------------------------------------------------------

OBJECTIVES: dict[str, Callable[..., SmoothMetric | MinimumMetric]] = {
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
        class_prior: "validation", "balanced" or K weights; default "balanced" for macro_f1 and with constraints,
            "validation" otherwise (recalls do not depend on it).
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

    metric: SmoothMetric | MinimumMetric
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


def _look_up(registry: Mapping[str, Callable], name: str, kind: str) -> Callable:
    if name in registry:
        return registry[name]
    raise ValueError(f"unknown {kind} {name!r}; {known_names(str(name), registry)}")


def known_names(name: str, known: Iterable[str]) -> str:
    """For an error: the nearest of the known names, if one is near, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(known)}."

"""Objectives psi(C): metrics of a confusion matrix, constraints on it, and their multipliers.

An objective is one metric and any number of constraints. Metrics that are a minimum (worst class, worst group, worst
share) and constraints are turned into a smooth Lagrangian by multipliers, which are recomputed from statistics once a
period by stateless functions; whoever trains keeps the multipliers.

    L(C) = psi_lambda(C) + sum_j mu_j slack_j(C)

C is K x K, rows true classes, entries summing to 1; definitions after SelMix (arXiv 2403.18301, table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from selmix_hf.method.confusion import as_counts, confusion_matrix, smooth_confusion

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
    return geometric_mean(recalls(confusion))


def h_mean(confusion: Tensor) -> Tensor:
    """Harmonic mean of the recalls."""
    return harmonic_mean(recalls(confusion))


def geometric_mean(values: Tensor) -> Tensor:
    """Of the last dimension (... x K): exactly zero where a value is, without the NaN gradient of log(0)."""
    with_zero = (values <= 0).any(-1)
    means = values.masked_fill(with_zero[..., None], 1).log().mean(-1).exp()
    return torch.where(with_zero, values.prod(-1), means)


def harmonic_mean(values: Tensor) -> Tensor:
    """Of the last dimension (... x K)."""
    return values.shape[-1] / values.reciprocal().sum(-1)


def macro_f1(confusion: Tensor) -> Tensor:
    """Mean over classes of 2 C_kk / (row sum + column sum): scikit-learn's where C has the samples' own prior."""
    return (2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))).mean()


class Metric(Protocol):
    """What an objective maximises, such as `SmoothMetric`, `minimum.MinimumMetric` or a class of one's own.

    Attributes:
        name: of the metric and of its multipliers.
        steered: whether multipliers move what is wanted from look to look.
        components: C -> r, shape J, where psi is the smallest of r or the mean of its worst share; None for any other
            psi.
        share: of the components, the worst ones, whose mean psi is; 0 for the smallest alone, and without components.
    """

    @property
    def name(self) -> str: ...

    @property
    def steered(self) -> bool: ...

    @property
    def components(self) -> Callable[[Tensor], Tensor] | None: ...

    @property
    def share(self) -> float: ...

    def value(self, confusion: Tensor) -> Tensor:
        """psi(C), a scalar; without components it need not be differentiable."""

    def lagrangian(self, confusion: Tensor, multiplier: Tensor | None) -> Tensor:
        """The smooth function that stands for psi, a scalar; with the initial multiplier where there is none."""

    def initial_multiplier(self, num_classes: int) -> Tensor | None:
        """None where `lagrangian` needs none."""

    def update_multiplier(self, multiplier: Tensor | None, confusion: Tensor, class_counts: Tensor) -> Tensor | None:
        """The next one, from the last, the smoothed C of the validation set and its samples of each class (K)."""


@dataclass(frozen=True)
class SmoothMetric:
    """A differentiable psi(C); needs no multipliers."""

    name: str
    function: Callable[[Tensor], Tensor]
    steered: ClassVar[bool] = False
    components: ClassVar[None] = None
    share: ClassVar[float] = 0.0

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
        metric: a `Metric`.
        constraints: each with `slack`, `lagrangian`, `initial_multiplier`, `update_multiplier`.
        class_prior: the prior that C is scaled to; see `confusion.resolve_class_prior`.
        tolerance: largest violation (relative units of the constraint) that still counts as feasible.
    """

    metric: Metric
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
        counts = as_counts(counts, whole=False)
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
    steered = bool(objective.constraints) or objective.metric.steered
    return 0.5 if steered or num_classes > 100 else 0.97

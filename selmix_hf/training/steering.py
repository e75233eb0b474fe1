"""From the counts of the gain set to what a period draws: multipliers, gains, P.

Shape suffix: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor

from selmix_hf.config import SelMixConfig
from selmix_hf.method.confusion import ClassStatistics
from selmix_hf.method.gain import head_gain, metric_gradient
from selmix_hf.method.objectives import Multipliers, Objective, default_target_share
from selmix_hf.method.pair_distribution import PairDistribution, pair_distribution, staleness
from selmix_hf.method.soft_gain import SoftConfusion
from selmix_hf.models.head import ClassifierHead
from selmix_hf.reports.metrics import refresh_report
from selmix_hf.training.pair_loader import PairLoader
from selmix_hf.training.state import PairState


@dataclass(frozen=True)
class Refresh:
    """One look at the gain set, when a period begins, and what followed from it.

    Attributes:
        step: of the weights that looked.
        period: its number.
        counts: of the gain set, K x K, on the CPU.
        gain: G, float32, K x K, on the CPU; None where single samples are drawn, as all that follows.
        distribution: P and what was decided on the way.
        probability: P as every process draws from it, K x K, on the CPU.
        multipliers: of the objective.
        pseudo_labels: of the unlabelled samples, N, -1 for those that are not used; None without such samples.
        report: what is logged of it.
    """

    step: int
    period: int
    counts: Tensor
    gain: Tensor | None = None
    distribution: PairDistribution | None = None
    probability: Tensor | None = None
    multipliers: Multipliers = field(default_factory=dict)
    pseudo_labels: Tensor | None = None
    report: dict[str, Any] = field(default_factory=dict)


class Steering:
    """Works out what a period draws.

    Args:
        objective, args, head, class_names: of the run.
        pairs: what is drawn from.
    """

    def __init__(
        self,
        objective: Objective,
        args: SelMixConfig,
        head: ClassifierHead,
        class_names: Sequence[str],
        pairs: PairLoader,
    ) -> None:
        self.objective, self.args, self.head, self.class_names, self.pairs = objective, args, head, class_names, pairs

    def refresh(
        self,
        step: int,
        before: PairState,
        statistics: ClassStatistics,
        make_soft: Callable[[], SoftConfusion] | None,
        pseudo_labels: Tensor | None,
    ) -> Refresh:
        """The refresh of a period, the same on every process.

        Args:
            step: of the weights.
            before: P and multipliers of the period that ends, and the number of the one that begins.
            statistics: of the gain set under these weights.
            make_soft: gives its soft confusion matrix; None: gains are those of the counts.
            pseudo_labels: of the period that begins.
        """
        counts, beta = statistics.counts.cpu(), (self.args.beta_min + 1) / 2
        soft = None if make_soft is None else make_soft()
        soft_counts = None if soft is None else soft.counts
        multipliers = self.objective.update_multipliers(before.multipliers, counts, soft_counts)
        gain = None
        if soft is not None:
            gain = soft.gain(self.objective, multipliers, soft.centroids(statistics.feature_sums), beta)
        del soft, soft_counts  # K x K, not beside those of the derivative
        gradient = metric_gradient(self.objective, counts, multipliers=multipliers)
        if gain is None:
            gain = head_gain(self.head, statistics.centroids, gradient, beta)
        second_K = self.pairs.second_counts(pseudo_labels)
        distribution = self._distribution(gain, multipliers, second_K)
        probability = broadcast(distribution.probability.contiguous()).cpu()
        own_gain = gain.cpu()
        stale = staleness(before.probability, probability, own_gain)
        names = self.class_names
        report = refresh_report(self.objective, counts, names, multipliers, gain, distribution, gradient)
        repeat = self.pairs.largest_repeat(probability, second_K)
        return Refresh(
            step,
            before.period,
            counts,
            own_gain,
            distribution,
            probability,
            multipliers,
            pseudo_labels,
            {**report, **stale, "largest_repeat": repeat},
        )

    def _distribution(self, gain: Tensor, multipliers: Multipliers, second_counts: Any) -> PairDistribution:
        scale = 1.0
        if isinstance(self.args.temperature, float):  # "auto" does not see that multipliers make gains larger
            scale += max((float(multipliers[c.name].max()) for c in self.objective.constraints), default=0.0)
        first_K = self.pairs.counts
        return pair_distribution(
            gain / scale,
            self.args.pair_sampling,
            self.args.temperature,
            self.args.target_share or default_target_share(self.objective, self.head.num_classes),
            torch.as_tensor(first_K > 0),
            torch.as_tensor((first_K if second_counts is None else second_counts) > 0),
        )

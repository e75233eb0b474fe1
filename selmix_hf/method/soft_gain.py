"""The gain of the soft confusion matrix, a differentiable stand-in for the counts.

From counts, a class that is never predicted right has next to no derivative: D_kl carries the factor C_kl. With many
such classes, as after plain training on a long tail, they are hardly ever drawn. Here the objective is a function of

    C_kl = pi_k s_kl / sum_m s_km,   s_kl = half a sample + sum over samples x of class k of softmax((W z_x + b) / T)_l

and its exact derivatives by W and b,

    M = sum over samples x of g_x z_x^T,   m = sum of g_x,
    g_x = p_x * (h_x - <p_x, h_x>) / T,    h_x = pi_k / (n_k + 1) Psi_k,   Psi = dL/dC,

take the place of D^T Z and D^T 1 in the closed form of the gain (`gain.gain_along`). They also see how the samples of
a class are spread, which centroids do not. Half a sample on the diagonal and half beside it are those of
`confusion.smooth_confusion`. Shape suffixes: N samples, R rows at a time, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix_hf.method.confusion import smooth_confusion, sum_dtype, sum_over_processes
from selmix_hf.method.gain import LinearHead, head_gain_along, lagrangian_derivative
from selmix_hf.method.objectives import Objective

_AT_ONCE = 2**20  # probabilities: 8 MB in float64


@dataclass(frozen=True)
class HeadSamples:
    """Samples as the head sees them; where several processes look, those of this one.

    Attributes:
        features: N x D, of any floating dtype; may be memory-mapped.
        labels: integers, shape N.
        more: further samples.
    """

    features: Tensor
    labels: Tensor
    more: HeadSamples | None = None

    def probabilities(
        self, weight: Tensor, bias: Tensor | None, temperature: float
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, labels and softmax((W z + b) / T), R x D, R and R x K: at most a million probabilities at once."""
        rows = max(1, _AT_ONCE // len(weight))
        parts = torch.split(self.features, rows), torch.split(self.labels, rows)
        for features_RD, labels_R in zip(*parts, strict=True):
            features_RD, labels_R = features_RD.to(weight), labels_R.to(weight.device, torch.long)
            logits_RK = torch.nn.functional.linear(features_RD, weight, bias)
            yield features_RD, labels_R, (logits_RK.to(sum_dtype(weight.device)) / temperature).softmax(1)
        if self.more is not None:
            yield from self.more.probabilities(weight, bias, temperature)


def soft_confusion_counts(
    samples: HeadSamples, weight: Tensor, bias: Tensor | None, temperature: float = 1.0
) -> Tensor:
    """Sums of softmax((W z + b) / T) over the samples of each class: what counts are for T -> 0.

    Args:
        samples: features and labels.
        weight, bias: of the head, K x D and K (None without one).
        temperature: T; as it falls, probabilities become hits and misses.

    Returns:
        float64 (float32 where the device has none), K x K; row k sums to the number of samples of class k. Over
        several processes, add them up.

    Raises:
        ValueError: a temperature that is not positive.
    """
    _check_temperature(temperature)
    sums_KK = torch.zeros(len(weight), len(weight), dtype=sum_dtype(weight.device), device=weight.device)
    for _, labels_R, prob_RK in samples.probabilities(weight, bias, temperature):
        sums_KK.index_add_(0, labels_R, prob_RK)
    return sums_KK


def soft_direction(
    objective: Objective,
    soft_counts: Tensor,
    samples: HeadSamples,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float = 1.0,
    multipliers: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Derivatives of the objective's Lagrangian at the soft confusion matrix by weight and bias of the head.

    Args:
        objective: from `objective_names.get_objective`.
        soft_counts: of all samples, from `soft_confusion_counts`.
        samples, weight, bias, temperature: as there.
        multipliers: of the objective; its initial ones if not given.

    Returns:
        M (K x D) and m (K), sums over these samples, float64 where the device has it; over several processes, add
        them up.

    Raises:
        ValueError: a temperature that is not positive, or a derivative that is not finite.
    """
    _check_temperature(temperature)
    sizes_K = soft_counts.sum(1)
    soft_KK = smooth_confusion(soft_counts, objective.class_prior)
    psi_KK = lagrangian_derivative(objective, soft_KK, multipliers)
    share_KK = psi_KK * (soft_KK.sum(1) / (sizes_K + 1) / temperature)[:, None]
    share_KK = share_KK.to(weight.device, sum_dtype(weight.device))
    direction_KD = torch.zeros_like(weight, dtype=share_KK.dtype)
    bias_K = torch.zeros_like(direction_KD[:, 0])
    for features_RD, labels_R, prob_RK in samples.probabilities(weight, bias, temperature):
        own_RK = share_KK[labels_R]
        own_RK = prob_RK * (own_RK - (prob_RK * own_RK).sum(1, keepdim=True))
        direction_KD += own_RK.to(weight).T @ features_RD
        bias_K += own_RK.sum(0)
    return direction_KD, bias_K


class SoftConfusion:
    """The soft confusion matrix of a set under a head as it is, over all processes.

    Args:
        head: of the classifier.
        samples: of this process.
        temperature: T.

    Attributes:
        counts: of `soft_confusion_counts` over all processes, on the CPU, K x K.
    """

    def __init__(self, head: LinearHead, samples: HeadSamples, temperature: float) -> None:
        self.head, self.samples, self.temperature = head, samples, temperature
        self._weight = head.weight.float()
        self._bias = None if head.bias is None else head.bias.float()
        own_KK = soft_confusion_counts(samples, self._weight, self._bias, temperature)
        self.counts = sum_over_processes(own_KK).cpu()

    def centroids(self, gain_sums: Tensor) -> Tensor:
        """Mean feature of each class, K x D, over the samples here: the sums of those of the gain set (over all
        processes), and what `more` adds."""
        sums_KD = gain_sums.clone()
        if (more := self.samples.more) is not None:
            own_KD = torch.zeros_like(sums_KD).index_add_(0, more.labels.to(sums_KD.device), more.features.to(sums_KD))
            sums_KD += sum_over_processes(own_KD)
        return sums_KD / self.counts.sum(1, keepdim=True).to(sums_KD)

    def gain(
        self,
        objective: Objective,
        multipliers: Mapping[str, Tensor],
        centroids: Tensor,
        beta: float | Sequence[float] = 0.8,
    ) -> Tensor:
        """The gain matrix, float32, K x K, with the centroids of the mixes; see `gain.head_gain`.

        Beside what that takes, K x D numbers and some million probabilities at a time: no N x K matrix is kept.
        """
        head = self._weight, self._bias, self.temperature
        direction_KD, bias_K = soft_direction(objective, self.counts, self.samples, *head, multipliers)
        for tensor in (direction_KD, bias_K):
            sum_over_processes(tensor)
        return head_gain_along(self.head, centroids, direction_KD, bias_K, beta)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature of a soft confusion matrix must be a positive number, found {temperature}.")

"""Losses for stage 1, the training that SelMix starts from. They serve as `compute_loss_func` of any `Trainer`.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positive_counts(class_counts: Sequence[int] | Tensor) -> Tensor:
    """The counts, float64, K; ValueError where one is not positive."""
    counts_K = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts_K.ndim != 1 or not bool((counts_K > 0).all()):
        raise ValueError(f"class_counts must hold one positive number a class, found {counts_K.tolist()}.")
    return counts_K


class LongTailLoss(nn.Module):
    """Cross entropy on adjusted logits; a subclass says how they are adjusted.

    Attributes:
        label_smoothing: share of each label that is spread evenly over the K classes, in [0, 1); default 0.
    """

    class_weight_K: Tensor | None = None  # set by `training.deferred_reweighting.DeferredReweighting`
    label_smoothing: float = 0.0

    def adjusted(self, logits_NK: Tensor, labels: Tensor) -> Tensor:
        """The logits that enter cross entropy, N x K."""
        raise NotImplementedError

    def forward(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss.

        Args:
            outputs: logits (N x K), or a model output that has them.
            labels: integers, shape N.
            num_items_in_batch: what Trainer divides by under gradient accumulation; the mean over N if not given.
        """
        logits_NK = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        logits_NK = self.adjusted(logits_NK.float(), labels)
        weight_K = None if self.class_weight_K is None else self.class_weight_K.to(logits_NK)
        how: dict[str, Any] = {"weight": weight_K, "label_smoothing": self.label_smoothing, "reduction": "none"}
        loss_N = F.cross_entropy(logits_NK, labels, **how)
        return loss_N.sum() / (len(loss_N) if num_items_in_batch is None else num_items_in_batch)


class LogitAdjustedLoss(LongTailLoss):
    """Cross entropy on logits shifted by tau log pi, which makes the plain argmax right for balanced accuracy.

    Menon et al. 2021, "Long-tail learning via logit adjustment" (arXiv 2007.07314), equation 10.

    Args:
        class_counts: training samples of each class, shape K, all positive.
        tau: strength; 1 is Fisher consistent, 0 is plain cross entropy.
    """

    def __init__(self, class_counts: Sequence[int] | Tensor, tau: float = 1.0) -> None:
        super().__init__()
        counts_K = positive_counts(class_counts)
        self.shift_K: Tensor
        self.register_buffer("shift_K", (tau * (counts_K / counts_K.sum()).log()).float(), persistent=False)

    def adjusted(self, logits_NK: Tensor, labels: Tensor) -> Tensor:
        return logits_NK + self.shift_K.to(logits_NK.device)


class BalancedSoftmaxLoss(LogitAdjustedLoss):
    """Cross entropy on a softmax whose classes are weighted by their counts: `LogitAdjustedLoss` with tau = 1.

    Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (arXiv 2007.10740), equation 3. The two
    were found independently and are the same function, as n_k and pi_k differ by a factor that cancels.

    Args:
        class_counts: training samples of each class, shape K, all positive.
    """

    def __init__(self, class_counts: Sequence[int] | Tensor) -> None:
        super().__init__(class_counts)


class LDAMLoss(LongTailLoss):
    """Cross entropy with a margin on the label's logit that grows as the class gets rarer: Delta_k ~ n_k^(-1/4).

    Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (arXiv 1906.07413),
    equations 12 and 13. Their deferred re-weighting (DRW) is `training.deferred_reweighting.DeferredReweighting`.
    They use a head of unit weights on unit features and scale its logits; an ordinary linear head wants the default
    scale.

    Args:
        class_counts: training samples of each class, shape K, all positive.
        max_margin: Delta of the rarest class; the paper's 0.5.
        scale: of the logits after the margin; the paper's experiments use 30 with their normalised head.
    """

    def __init__(self, class_counts: Sequence[int] | Tensor, max_margin: float = 0.5, scale: float = 1.0) -> None:
        super().__init__()
        rarity_K = positive_counts(class_counts) ** -0.25
        self.margin_K: Tensor
        self.register_buffer("margin_K", (max_margin * rarity_K / rarity_K.max()).float(), persistent=False)
        self.scale = scale

    def adjusted(self, logits_NK: Tensor, labels: Tensor) -> Tensor:
        margin_NK = F.one_hot(labels, len(self.margin_K)) * self.margin_K.to(logits_NK.device)
        return self.scale * (logits_NK - margin_NK)


def effective_number_weights(class_counts: Sequence[int] | Tensor, beta: float = 0.9999) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n_k), scaled to mean 1; shape K, float32.

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples" (arXiv 1901.05555), equation 3; used by
    the deferred re-weighting of Cao et al. 2019 with the same beta.
    """
    weight_K = 1 / -torch.expm1(positive_counts(class_counts) * math.log(beta))
    return (weight_K / weight_K.mean()).float()

"""Linear heads trained at once on stored features, one a learning rate: beside the first the others come cheap.

Shape suffixes: N samples, B samples of a batch, S heads, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix_hf.head_fitting.retraining import class_balanced_weight

LOSSES = ("logit_adjusted", "class_balanced")


@dataclass(frozen=True)
class FittedHead:
    """A head, and how it was trained.

    Attributes:
        loss: "logit_adjusted" (Menon et al. 2021, arXiv 2007.07314: samples as they are, log priors on the logits), or
            "class_balanced" (cRT; Kang et al. 2020, arXiv 1910.09217: every class is drawn equally often).
        learning_rate: its peak.
        weight, bias: K x D and K.
    """

    loss: str
    learning_rate: float
    weight: Tensor
    bias: Tensor


def fit_side_by_side(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    learning_rates: Sequence[float],
    loss: str = "logit_adjusted",
    *,
    tau: float = 1.0,
    steps: int = 2000,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    fit_bias: bool = True,
    seed: int = 0,
) -> list[FittedHead]:
    """Train a head for each learning rate, from zeros, by SGD with a cosine to 0; all see the same batches.

    Each is what `retraining.retrain_head` makes with the same options, its loss and its sample weights.

    Args:
        features: N x D, of any floating dtype; may be memory-mapped.
        labels: integers, shape N.
        num_classes: K.
        learning_rates: S of them.
        loss: of `LOSSES`.
        tau: strength of the logit adjustment; 1 is the balanced softmax.
        steps, batch_size, momentum, weight_decay, seed: of the training.
        fit_bias: whether there is a bias; else it stays 0.

    Returns:
        S heads, in the order of the learning rates.

    Raises:
        ValueError: an unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, found {loss!r}.")
    counts_K = torch.bincount(labels, minlength=num_classes).clamp(min=1).double()
    rate_S11 = torch.tensor(learning_rates, dtype=torch.float32)[:, None, None]
    num_heads = len(rate_S11)
    adjust_K = torch.zeros(num_classes)
    share_N = torch.ones(len(labels)).double()
    if loss == "logit_adjusted":
        adjust_K = (tau * (counts_K / counts_K.sum()).log()).float()
    else:
        share_N = class_balanced_weight(labels)
    edges_N, generator = share_N.cumsum(0), torch.Generator().manual_seed(seed)
    # the bias is one more feature that is always 1
    weight = torch.zeros(num_heads, num_classes, features.shape[1] + 1)
    velocity, own_B = torch.zeros_like(weight), torch.arange(batch_size)
    for number in range(steps):
        drawn_B = torch.rand(batch_size, generator=generator, dtype=torch.float64) * edges_N[-1]
        rows_B = torch.searchsorted(edges_N, drawn_B, right=True).clamp_(max=len(edges_N) - 1)
        inputs = torch.cat([features.index_select(0, rows_B).float(), torch.ones(batch_size, 1)], 1)
        logits = (inputs @ weight.flatten(0, 1).T).view(batch_size, num_heads, num_classes)
        error = (logits + adjust_K).softmax(2)
        error[own_B, :, labels[rows_B]] -= 1
        gradient = (error.view(batch_size, -1).T @ inputs / batch_size).view_as(weight)
        velocity.mul_(momentum).add_(gradient).add_(weight, alpha=weight_decay)
        if not fit_bias:
            velocity[..., -1] = 0
        weight.addcmul_(rate_S11, velocity, value=-0.5 * (1 + math.cos(math.pi * number / steps)))
    return [
        FittedHead(loss, rate, head[:, :-1].contiguous(), head[:, -1].contiguous())
        for rate, head in zip(learning_rates, weight, strict=True)
    ]

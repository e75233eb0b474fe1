"""A new linear head on stored features: the second stage of two-stage training.

Kang et al. 2020, "Decoupling representation and classifier for long-tailed recognition" (arXiv 1910.09217), section
4.1. Shape suffixes: N samples, B samples of a batch, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def retrain_head(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    loss: Loss = F.cross_entropy,
    *,
    start: tuple[Tensor, Tensor] | None = None,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    sample_weight: Tensor | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Train W (K x D) and b (K) by SGD with a cosine to 0.

    Args:
        features: N x D.
        labels: N.
        num_classes: K.
        loss: of logits (B x K) and labels (B); such as `losses.LogitAdjustedLoss`.
        start: weight and bias to begin from; default zeros.
        steps, batch_size, learning_rate, momentum, weight_decay: of the training.
        sample_weight: chance of each sample to be drawn, N, not normalised; default uniform. `1 / class size` is the
            class-balanced sampling of cRT.
        seed: of the draws.

    Returns:
        weight and bias, detached.
    """
    if start is None:
        start = features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes)
    weight, bias = (tensor.detach().clone().requires_grad_() for tensor in start)
    generator = torch.Generator().manual_seed(seed)
    share_N = torch.ones(len(features)) if sample_weight is None else sample_weight.double()
    edges_N = share_N.double().cumsum(0)
    optimizer = torch.optim.SGD([weight, bias], learning_rate, momentum=momentum, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        drawn_B = torch.rand(batch_size, generator=generator, dtype=torch.float64) * edges_N[-1]
        rows_B = torch.searchsorted(edges_N, drawn_B, right=True).clamp_(max=len(features) - 1)
        optimizer.zero_grad()
        loss(features[rows_B] @ weight.T + bias, labels[rows_B]).backward()
        optimizer.step()
        scheduler.step()
    return weight.detach(), bias.detach()

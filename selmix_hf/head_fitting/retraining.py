"""A new or a rescaled linear head on stored features: the second stage of two-stage training.

Kang et al. 2020, "Decoupling representation and classifier for long-tailed recognition" (arXiv 1910.09217), section 4.
Shape suffixes: N samples, B samples of a batch, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Head = tuple[Tensor, Tensor]  # weight K x D, bias K


def retrain_head(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    loss: Loss = F.cross_entropy,
    *,
    start: Head | None = None,
    sample_weight: Tensor | None = None,
    fit_bias: bool = True,
    before_step: Callable[[int, Tensor, Tensor], None] | None = None,
    **options: Any,
) -> Head:
    """Train weight and bias by SGD with a cosine to 0.

    With `sample_weight` 1 / class size, from zeros, this is cRT, classifier re-training.

    Args:
        features: N x D.
        labels: N.
        num_classes: K.
        loss: of logits (B x K) and labels (B); such as `losses.LogitAdjustedLoss`.
        start: weight (K x D) and bias (K) to begin from; default zeros.
        sample_weight: chance of each sample to be drawn, N, not normalised; default uniform.
        fit_bias: whether the bias is trained too; else it stays.
        before_step: called with the number of the step, the weight and the bias.
        options: steps=2000, batch_size=128, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, seed=0 (of the draws).

    Returns:
        weight and bias, detached.
    """
    if start is None:
        start = features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes)
    weight, bias = (tensor.detach().clone().requires_grad_() for tensor in start)

    def step(number: int, rows_B: Tensor) -> Tensor:
        if before_step is not None:
            before_step(number, weight.detach(), bias.detach())
        return loss(features[rows_B] @ weight.T + bias, labels[rows_B])

    _descend([weight, bias] if fit_bias else [weight], step, _shares(labels, sample_weight), **options)
    return weight.detach(), bias.detach()


def learn_weight_scale(
    features: Tensor,
    labels: Tensor,
    head: Head,
    loss: Loss = F.cross_entropy,
    *,
    sample_weight: Tensor | None = None,
    **options: Any,
) -> Head:
    """LWS, learnable weight scaling (equation 4): weight and bias of class k times a learnt f_k, and nothing else.

    The bias is scaled with its row, as the weight of a feature that is always 1.

    Args:
        features, labels, loss, options: as for `retrain_head`.
        head: weight (K x D) and bias (K), which stay as they are.
        sample_weight: chance of each sample to be drawn, N; default 1 / class size, as in the paper.

    Returns:
        the scaled weight and bias.
    """
    weight, bias = head
    if sample_weight is None:
        sample_weight = class_balanced_weight(labels)
    scale_K = weight.new_ones(len(weight)).requires_grad_()
    logits_NK = features @ weight.T + bias
    _descend(
        [scale_K],
        lambda _, rows_B: loss(logits_NK[rows_B] * scale_K, labels[rows_B]),
        _shares(labels, sample_weight),
        **options,
    )
    return weight * scale_K.detach()[:, None], bias * scale_K.detach()


def tau_normalized(weight: Tensor, tau: float = 1.0) -> Tensor:
    """Rows of the head scaled to w_k / ||w_k||^tau (equation 3); the paper leaves the bias out.

    Args:
        weight: K x D.
        tau: 0 leaves the rows as they are, 1 gives all of them norm 1.

    Raises:
        ValueError: a row that is zero.
    """
    norm_K1: Tensor = weight.norm(dim=1, keepdim=True)
    if not bool((norm_K1 > 0).all()):
        raise ValueError(f"a row of zeros has no direction: found {int((norm_K1 == 0).sum())} in weight.")
    return weight / norm_K1.pow(tau)


def class_balanced_weight(labels: Tensor) -> Tensor:
    """1 / size of the sample's class, N: every class is drawn equally often."""
    return 1 / torch.bincount(labels)[labels].double()


def _shares(labels_N: Tensor, sample_weight: Tensor | None) -> Tensor:
    return torch.ones(len(labels_N)).double() if sample_weight is None else sample_weight.double().cpu()


def _descend(
    parameters: list[Tensor],
    loss_of: Callable[[int, Tensor], Tensor],
    share_N: Tensor,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    seed: int = 0,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    edges_N = share_N.cumsum(0)
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum=momentum, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(steps):
        drawn_B = torch.rand(batch_size, generator=generator, dtype=torch.float64) * edges_N[-1]
        rows_B = torch.searchsorted(edges_N, drawn_B, right=True).clamp_(max=len(edges_N) - 1)
        loss = loss_of(number, rows_B.to(parameters[0].device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()

"""Losses for stage 1, the training that SelMix starts from. They serve as `compute_loss_func` of any `Trainer`.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LogitAdjustedLoss(nn.Module):
    """Cross entropy on logits shifted by tau log pi, which makes the plain argmax right for balanced accuracy.

    Menon et al. 2021, "Long-tail learning via logit adjustment" (arXiv 2007.07314), equation 10.

    Args:
        class_counts: training samples of each class, shape K, all positive.
        tau: strength; 1 is Fisher consistent, 0 is plain cross entropy.
    """

    def __init__(self, class_counts: Sequence[int] | Tensor, tau: float = 1.0) -> None:
        super().__init__()
        counts_K = torch.as_tensor(class_counts, dtype=torch.float64)
        if counts_K.ndim != 1 or not bool((counts_K > 0).all()):
            raise ValueError(f"class_counts must hold one positive number a class, found {counts_K.tolist()}.")
        self.shift_K: Tensor
        self.register_buffer("shift_K", (tau * (counts_K / counts_K.sum()).log()).float(), persistent=False)

    def forward(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss.

        Args:
            outputs: logits (N x K), or a model output that has them.
            labels: integers, shape N.
            num_items_in_batch: what Trainer divides by under gradient accumulation; the mean over N if not given.
        """
        logits_NK = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        shifted_NK = logits_NK.float() + self.shift_K.to(logits_NK.device)
        if num_items_in_batch is None:
            return F.cross_entropy(shifted_NK, labels)
        return F.cross_entropy(shifted_NK, labels, reduction="sum") / num_items_in_batch

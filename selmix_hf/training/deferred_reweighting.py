"""Class weights late in stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from selmix_hf.method.losses import LongTailLoss, effective_number_weights


class DeferredReweighting(TrainerCallback):
    """Class weights late in stage 1 (DRW), when the features have formed under the plain loss.

    Cao et al. 2019 (arXiv 1906.07413), algorithm 1: the last fifth of the run, weights by the effective number.

    Args:
        loss: the Trainer's `compute_loss_func`.
        class_counts: training samples of each class, shape K, all positive.
        begin: share of the run after which the weights count.
        beta: of `losses.effective_number_weights`.
    """

    def __init__(
        self, loss: LongTailLoss, class_counts: Sequence[int] | Tensor, begin: float = 0.8, beta: float = 0.9999
    ) -> None:
        self.loss, self.begin = loss, begin
        self.weight_K = effective_number_weights(class_counts, beta)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.class_weight_K = self.weight_K if state.global_step >= self.begin * state.max_steps else None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.class_weight_K = None

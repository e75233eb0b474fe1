"""A cost-sensitive loss that follows the gain set of a run."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss


class CostSensitiveCallback(TrainerCallback):
    """Lets a `cost_sensitive.CostSensitiveLoss` follow the gain set of a `SelMixTrainer`, at every refresh.

    Args:
        loss: the trainer's `compute_loss_func`.
    """

    def __init__(self, loss: CostSensitiveLoss) -> None:
        self.loss = loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > 0:
            raise ValueError(
                "a CostSensitiveLoss does not resume: its multipliers are in no checkpoint. Train from the start."
            )

    def on_refresh(self, trainer: Any) -> None:
        """Called by `SelMixTrainer` when it has looked at the gain set."""
        self.loss.update(trainer.latest_refresh.counts)

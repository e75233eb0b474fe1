"""A Trainer whose processes train one model even where they looked at data first, and that loads all that it saved."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from transformers import Trainer

from selmix_hf.models.peft_models import adapter_saved
from selmix_hf.training.checkpoints import load_weights
from selmix_hf.training.resuming import require_checkpoint


class SynchronizedTrainer(Trainer):
    """`transformers.Trainer`, after whose `evaluate` or `predict` a run on several processes still averages gradients.

    A look at data marks the bare model as prepared; accelerate then leaves it as it is when training begins, without
    DistributedDataParallel, and every process silently trains a model of its own.

    Weights are loaded by from_pretrained, since Trainer's own way skips those that are saved under older names.
    """

    _resumes_from: str | None = None  # the checkpoint, during and after train()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's.

        Raises:
            FileNotFoundError: nothing to resume from, see `resuming.require_checkpoint`.
        """
        checkpoint = self._resumes_from = require_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if self.args.world_size > 1 and getattr(self.model, "_is_accelerate_prepared", False):
            self.model._is_accelerate_prepared = False  # type: ignore[union-attr]
        return super().train(checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_weights(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not load_weights(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = str(self.args.output_dir if output_dir is None else output_dir)
        with adapter_saved(self.model, folder) if self.args.should_save else nullcontext():
            super()._save(output_dir, state_dict)

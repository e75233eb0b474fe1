"""A Trainer whose processes train one model even where they looked at data first; it resumes from what is there."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from selmix_hf.resuming import require_checkpoint


class SynchronizedTrainer(Trainer):
    """`transformers.Trainer`, after whose `evaluate` or `predict` a run on several processes still averages gradients.

    A look at data marks the bare model as prepared; accelerate then leaves it as it is when training begins, without
    DistributedDataParallel, and every process silently trains a model of its own.
    """

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's.

        Raises:
            FileNotFoundError: nothing to resume from, see `resuming.require_checkpoint`.
        """
        checkpoint = require_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if self.args.world_size > 1 and getattr(self.model, "_is_accelerate_prepared", False):
            self.model._is_accelerate_prepared = False  # type: ignore[union-attr]
        return super().train(checkpoint, *args, **kwargs)

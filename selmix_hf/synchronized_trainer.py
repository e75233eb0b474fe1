"""A Trainer whose processes train one model even where they looked at data first."""

from __future__ import annotations

from typing import Any

from transformers import Trainer


class SynchronizedTrainer(Trainer):
    """`transformers.Trainer`, after whose `evaluate` or `predict` a run on several processes still averages gradients.

    A look at data marks the bare model as prepared; accelerate then leaves it as it is when training begins, without
    DistributedDataParallel, and every process silently trains a model of its own.
    """

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.world_size > 1 and getattr(self.model, "_is_accelerate_prepared", False):
            self.model._is_accelerate_prepared = False  # type: ignore[union-attr]
        return super().train(*args, **kwargs)

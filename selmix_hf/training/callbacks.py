"""What happens at set moments of a run, and what a person sees of it."""

from __future__ import annotations

from typing import Any, Protocol

from transformers import TrainerCallback


class Refreshable(Protocol):
    """What `RefreshCallback` needs of a trainer."""

    def start_run(self) -> None: ...

    def refresh(self) -> None: ...

    def end_step(self) -> None: ...


class RefreshCallback(TrainerCallback):
    """Refresh at the beginning of every period, which is one epoch of Trainer: before the period's batches are drawn,
    so that no prefetched batch comes from an old P."""

    def __init__(self, trainer: Refreshable) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.start_run()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

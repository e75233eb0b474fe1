"""What happens at set moments of a run, and what a person sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from selmix_hf.losses import LongTailLoss, effective_number_weights


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


class ProgressLines(TrainerCallback):
    """One line an evaluation, for a person at a terminal, instead of progress bars and dictionaries.

    Args:
        every: print every so many evaluations.
        metrics: names of evaluation metrics and what they are called.
    """

    def __init__(self, every: int = 1, metrics: Mapping[str, str] | None = None) -> None:
        self.every, self.num_seen = every, 0
        self.metrics = metrics or {"mean_recall": "mean recall", "min_recall": "worst-class recall"}

    @classmethod
    def replace_logs_of(cls, trainer: Trainer, every: int = 1) -> None:
        """Take the place of what `trainer` prints by default."""
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(cls(every))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        known = {name: (metrics or {}).get(f"eval_{name}") for name in self.metrics}
        numbers = [f"{self.metrics[name]} {value:.3f}" for name, value in known.items() if value is not None]
        self.num_seen += bool(numbers)  # of a test set there are none
        if numbers and state.is_world_process_zero and (self.num_seen - 1) % self.every == 0:
            print(f"  step {state.global_step:>5}   validation: {', '.join(numbers)}", flush=True)

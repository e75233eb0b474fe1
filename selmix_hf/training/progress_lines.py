"""A run at a terminal, in lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from selmix_hf.method.minimum import worst_share_title
from selmix_hf.reports.registry import metric_title


class ProgressLines(TrainerCallback):
    """One line an evaluation, for a person at a terminal, instead of progress bars and dictionaries.

    Args:
        every: print every so many evaluations.
        metrics: names of evaluation metrics and what they are called.
    """

    def __init__(self, every: int = 1, metrics: Mapping[str, str] | None = None) -> None:
        self.every, self.num_seen = every, 0
        self.metrics = metrics or {name: metric_title(name) for name in ("mean_recall", "min_recall")}

    @classmethod
    def replace_logs_of(cls, trainer: Trainer, every: int = 1) -> None:
        """Take the place of what `trainer` prints by default; the mean recall of the worst share, where that is the
        objective, is among the metrics then."""
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        lines = cls(every)
        metric: Any = getattr(getattr(trainer, "objective", None), "metric", None)
        if getattr(metric, "name", "") == "worst_share_recall":
            lines.metrics = {**lines.metrics, metric.name: worst_share_title(metric.share)}
        trainer.add_callback(lines)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        known = {name: (metrics or {}).get(f"eval_{name}") for name in self.metrics}
        numbers = [f"{self.metrics[name]} {value:.3f}" for name, value in known.items() if value is not None]
        self.num_seen += bool(numbers)  # of a test set there are none
        if numbers and state.is_world_process_zero and (self.num_seen - 1) % self.every == 0:
            print(f"  step {state.global_step:>5}   validation: {', '.join(numbers)}", flush=True)

"""When a run and its periods begin and end: what is looked at before anything is drawn, and what is said at last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import TrainerCallback

from selmix_hf.features.frozen import head_alone
from selmix_hf.method.confusion import ClassStatistics
from selmix_hf.reports.metrics import refresh_report
from selmix_hf.training.changed_options import options_now, require_usable
from selmix_hf.training.checkpoints import load_pair_state
from selmix_hf.training.health import blamed_on_weights, require_finite_weights, say_if_never_feasible
from selmix_hf.training.model_init import new_model
from selmix_hf.training.pair_loader import PairLoader
from selmix_hf.training.refit import refit_head
from selmix_hf.training.state import PairState, geometry_of
from selmix_hf.training.steering import Refresh

_WHOLE_RUN = 2000  # steps


@contextmanager
def running(trainer: Any) -> Iterator[None]:
    """Around a run of a `SelMixTrainer`: a new model where it makes one, what is kept of features, and with a frozen
    backbone the head that stands for the model."""
    require_usable(trainer, trainer.known_options)  # before a new model takes the place of the old one
    with ExitStack() as stack:
        stack.enter_context(new_model(trainer))
        if trainer.args.freeze_backbone:
            stack.enter_context(head_alone(trainer.model, trainer.head))
        stack.enter_context(trainer.passes.keeping())
        try:
            yield
        finally:
            trainer.gain_set.forget()
            trainer.train_features = None


class Periods(TrainerCallback):
    """Refreshes a `SelMixTrainer` at the beginning of every period, which is one epoch of Trainer: before the period's
    batches are drawn, so that no prefetched batch comes from an old P."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.resumed = trainer, False
        trainer.known_options = options_now(trainer)  # what was worked out is no change

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start_run()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with self.trainer.timed("gain and P"):
            self.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        unlabeled = self.trainer.unlabeled
        if unlabeled is not None and unlabeled.average is not None:
            unlabeled.average.update(args.ema_decay)

    @property
    def settled(self) -> bool:
        """A rate that was worked out is high until it has fallen: before the last quarter of a run what the weights
        score on a gain set is in good part chance."""
        state = self.trainer.state
        return bool(self.trainer.given_rate) or state.global_step >= 0.75 * state.max_steps

    def save(self, folder: str) -> None:
        """Write what a run must keep to go on drawing the same into a checkpoint."""
        trainer = self.trainer
        average = None if trainer.unlabeled is None else trainer.unlabeled.average
        trainer.pair_state.average = {} if average is None else average.tensors
        trainer.pair_state.learning_rate = float(trainer.args.learning_rate)
        trainer.pair_state.selection = trainer.selection.saved()
        trainer.pair_state.save(folder)

    def resume(self, checkpoint: str | None) -> None:
        """Go on from what a checkpoint has; None for a run that starts."""
        self.resumed, trainer = checkpoint is not None, self.trainer
        if checkpoint is None:
            return
        trainer.pair_state = load_pair_state(checkpoint, geometry_of(trainer))
        trainer.selection.load(trainer.pair_state.selection, trainer.state.best_metric)
        if trainer.unlabeled is not None:
            trainer.unlabeled.start_average(trainer.pair_state.average)

    def start_run(self) -> None:
        """Make the start a candidate for the best checkpoint, so that a run never returns something worse."""
        trainer = self.trainer
        args, state = trainer.args, trainer.state
        trainer.gain_set.forget()
        trainer.health.recall(state.log_history)
        if state.global_step > 0:
            return
        before = trainer.pair_state if self.resumed else PairState()  # else train() may have been called before
        trainer.pair_state = PairState(geometry=geometry_of(trainer), start_counts=before.start_counts)
        trainer.begin_selection()
        if args.gain_set_use != "steer" and not self.resumed:  # checkpoint-0 has the refitted head
            refit_head(trainer)
        if trainer.pair_state.start_counts is None:
            trainer.pair_state.start_counts = trainer.gain_set_statistics().counts.cpu()
            trainer.health.start(trainer.pair_state.start_counts, trainer.class_names)
        keeps_best = args.load_best_model_at_end and args.eval_strategy != "no"
        if keeps_best:
            trainer.is_new_best()
        if trainer.head_start is not None and not self.resumed:
            trainer.head_start.begin(trainer, trainer.is_new_best if keeps_best else None)
        if trainer.unlabeled is not None:
            trainer.unlabeled.start_average()
        if keeps_best:
            trainer._save_checkpoint(trainer.model, None)
            if state.best_global_step == 0:  # not where it has no score
                state.best_model_checkpoint = trainer.checkpoint_folder()

    def end_run(self) -> None:
        """Look at the weights that the run returns, and say what it came to."""
        trainer = self.trainer
        state = trainer.state
        require_finite_weights(trainer.model, state.global_step)
        trainer.gain_counts = trainer.gain_set_statistics().counts.cpu()
        say_if_never_feasible(state.log_history, trainer.say)
        trainer.selection.say_if_nothing_was_gained(state.best_global_step, state.best_metric)

    def refresh(self) -> None:
        """Look at the gain set when a period begins and, where pairs are drawn, work out P from it."""
        trainer = self.trainer
        args, step = trainer.args, trainer.state.global_step
        period = step // args.refresh_steps
        if trainer.pair_state.period == period:  # resumed in the middle of it
            return
        statistics = trainer.gain_set_statistics()
        trainer.gain_counts = statistics.counts.cpu()
        trainer.pair_state = replace(trainer.pair_state, period=period)
        if isinstance(trainer.draws, PairLoader):
            found = self._of_pairs(step, statistics)
        else:
            report = refresh_report(trainer.objective, trainer.gain_counts, trainer.class_names, {})
            report["largest_repeat"] = trainer.draws.largest_repeat()
            found = Refresh(step, period, trainer.gain_counts, report=report)
        trainer.latest_refresh = found
        trainer.log(found.report)
        reach = args.learning_rate * max(trainer.state.max_steps, _WHOLE_RUN)  # a trial run is short
        settled = found.gain is None or self.settled
        trainer.health.look(found, reach, settled)
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "on_refresh"):
                callback.on_refresh(trainer)

    def _of_pairs(self, step: int, statistics: ClassStatistics) -> Refresh:
        trainer, before = self.trainer, self.trainer.pair_state
        pseudo_labels = before.pseudo_labels
        if trainer.unlabeled is not None:
            with trainer.timed("pseudo-labels"):
                is_main = trainer.is_world_process_zero()
                pseudo_labels = trainer.unlabeled.labels_at(step, pseudo_labels, trainer.log, is_main)
        soft = partial(trainer.gain_set.soft_confusion, step) if trainer.gain_set.soft else None
        with blamed_on_weights(trainer.model, step, "P"):
            found: Refresh = trainer.steering.refresh(step, before, statistics, soft, pseudo_labels)
        trainer.pair_state = replace(
            before,
            probability=found.probability,
            multipliers=found.multipliers,
            pseudo_labels=found.pseudo_labels,
        )
        return found

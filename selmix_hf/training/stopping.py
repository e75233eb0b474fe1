"""A run that is asked to end by SIGTERM or SIGINT: after the step, with a checkpoint that changes nothing in it."""

from __future__ import annotations

import signal
from typing import Any

from torch import nn

from selmix_hf.training.saving import SavingTrainer
from selmix_hf.training.signals import StopSignals

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: try again


class Stopped(SystemExit):
    """SIGTERM or SIGINT ended a run before its last step; a process that does not catch this exits with `code`.

    Attributes:
        code: 75 where there is a checkpoint to go on from; else 128 and the number of the signal, as shells have it.
        checkpoint: its folder, or None.
        number: of the signal.
        trainer: whose run it was.
    """

    def __init__(self, number: int, step: int, checkpoint: str | None, trainer: Any) -> None:
        name, self.checkpoint = signal.Signals(number).name, checkpoint
        self.number, self.trainer = number, trainer
        if checkpoint is None:
            sentence = f"{name} ended the run at step {step}: no checkpoint was written yet, begin anew."
        else:
            sentence = (
                f"{name} ended the run at step {step}. train(resume_from_checkpoint={checkpoint!r}), or True, goes on "
                "from there as if it had not been stopped."
            )
        super().__init__(sentence)
        self.code = 128 + number if checkpoint is None else RESUMABLE


class StoppingTrainer(SavingTrainer):
    """A `SavingTrainer` whose `train` raises `Stopped` after SIGTERM or SIGINT.

    The step that is under way comes to its end, with its evaluation, and a checkpoint is written; after a signal in a
    look at the gain set one more step is made. That checkpoint is no candidate for the best one, does not count for
    `save_total_limit`, and is deleted when the resumed run writes its next. Before the first step a run ends at once,
    and once the last one is over signals do what they did before `train`. A second signal, a second or more after the
    first, does so too. Of several processes all end after the same step, whichever got the signal: the one after that
    in which it came.

    Attributes:
        stop_grace: seconds after the signal in which the checkpoint must be begun; a step or an evaluation that takes
            longer is given up, and the run ends with the checkpoint that it had. Default None: they may take any time.
    """

    stop_grace: float | None = None
    _whole: str | None = None  # the latest checkpoint of the run
    _saved: tuple[int, int] | None = None  # step and length of the log at the latest checkpoint
    _steps_an_epoch: int = 0

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        self.resumes_from = self._whole = resume_from_checkpoint
        self._saved = None
        self._signals = StopSignals(self._stopped, self.stop_grace)
        try:
            with self._signals:
                output = super().train(resume_from_checkpoint, *args, **kwargs)
        except Stopped as stopped:
            self.is_in_train = False
            if stopped.trainer is not self:  # another run within this one, by a callback
                stopped = self._stopped(stopped.number)
            self.say(str(stopped))
            raise stopped from None
        if self._signals.number is not None:  # the step was the last one by a callback: nothing is left to resume
            signal.raise_signal(self._signals.number)
        return output

    def _stopped(self, number: int) -> Stopped:
        return Stopped(number, self.state.global_step, self._whole, self)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._signals.in_steps = True
        self._steps_an_epoch = kwargs["num_update_steps_per_epoch"]
        super()._run_epoch(*args, **kwargs)
        self._stop_if_asked()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        ends_epoch = self.control.should_epoch_stop or self.control.should_training_stop
        if not ends_epoch and self.state.global_step % self._steps_an_epoch:  # else what an epoch ends with is to come
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        state, is_last = self.state, self.control.should_training_stop
        if not self._signals.asked(state.global_step, is_last) or (is_last and state.global_step < state.max_steps):
            return
        self._signals.wait_no_longer()
        assert self._signals.number is not None and self.model is not None
        if state.global_step > self._initial_global_step and not self._is_saved():
            self.ends_here, self.is_aside = True, self._saved is None or self._saved[0] != state.global_step
            try:
                self._save_checkpoint(self.model, self._trial)
            finally:
                self.ends_here = self.is_aside = False
        raise self._stopped(self._signals.number)

    def _is_saved(self) -> bool:
        """Whether there is a checkpoint with all that the run has come to."""
        return self._saved == (self.state.global_step, len(self.state.log_history)) and not self.args.save_only_model

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._signals.close()
        output = super()._finalize_training(*args, **kwargs)  # type: ignore[no-untyped-call]  # theirs has no types
        if self.args.should_save:
            self._drop_aside(self.checkpoint_folder())
        return output

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self._saved = self.state.global_step, len(self.state.log_history)
        if self.ends_here or not self.args.save_only_model:
            self._whole = self.checkpoint_folder(trial)

"""Checkpoints that are whole or said not to be, written and loaded as every trainer here does it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from selmix_hf.training import manifest
from selmix_hf.training.checkpoints import load_weights, without_token
from selmix_hf.training.full_disk import saying_that_it_is_full
from selmix_hf.training.health import require_finite_weights
from selmix_hf.training.inexact import compare_options, inexact_sentence, load_what_is_there, require_same_optimizer
from selmix_hf.training.resuming import OF_MODEL, require_whole
from selmix_hf.training.same_data import save_facts
from selmix_hf.training.same_options import facts_of, read_options, save_options

logger = logging.get_logger(__name__)

_FROM_NOW_ON = "the best of the evaluations from now on is kept"
_ASIDE = "aside.txt"  # in a checkpoint that an unbroken run would not have


def is_aside(folder: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint was written only because its run had to end: it is no candidate for the best one."""
    return os.path.isfile(os.path.join(folder, _ASIDE))


class SavingTrainer(Trainer):
    """`transformers.Trainer` whose checkpoints are closed by a manifest.

    Weights are loaded by from_pretrained, since Trainer's own way skips those that are saved under older names.
    """

    data_facts: dict[str, Any] | None = None  # of `same_data`
    run_facts: dict[str, Any] | None = None  # of `same_options`, once a run has begun
    given_facts: dict[str, Any] | None = None  # of them, those of the arguments that the trainer was made with
    resumed_inexactly: tuple[str, ...] = ()  # a sentence for each time that the run, or what it goes on from, was
    goes_on_inexactly: bool = False  # from the checkpoint of this call of train()
    has_geometry: bool = False  # whether checkpoints keep what fixes the draws, and compare it by itself
    resumes_from: str | None = None  # the checkpoint, during and after train()
    ends_here: bool = False  # while the last checkpoint is written of a run that has to end
    is_aside: bool = False  # whether that is one which the unbroken run would not have

    def look_at_options(self, checkpoint: str | None, inexact: bool) -> None:
        """Before a run: what its checkpoints will know of it, compared with that of the one that it goes on from.

        Raises:
            ValueError: see `inexact.compare_options`.
        """
        facts: dict[str, Any] = broadcast_object_list([facts_of(self)])[0]  # a transform may know its process
        known, reasons = [], []
        if checkpoint is not None:
            reasons = compare_options(self, checkpoint, facts, inexact)
            known = read_options(checkpoint)[1]
        if reasons:
            known = [*known, inexact_sentence(str(checkpoint), reasons)]
            self.say(known[-1])
        self.run_facts, self.goes_on_inexactly, self.resumed_inexactly = facts, bool(reasons), tuple(known)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's, but a run that goes on from its last step has ended: Trainer would do one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with without_token(self.args):  # training_args.bin
            super()._save(output_dir, state_dict)

    @saying_that_it_is_full
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As Trainer's; the manifest, written last, says that it is whole, and older ones are deleted after it.

        Raises:
            FloatingPointError: weights that are not finite.
        """
        assert self.model is not None
        require_finite_weights(self.model, self.state.global_step)
        if self.state.best_global_step != self.state.global_step:  # else it is this one
            self._look_for_best(_FROM_NOW_ON, trial)
        folder, args = self.checkpoint_folder(trial), self.args
        best, limit, only_model = self.state.best_model_checkpoint, args.save_total_limit, args.save_only_model
        if args.should_save:
            manifest.begin(folder)
            self._mark(Path(folder) / _ASIDE)
            self.save_own(folder)  # before Trainer's part, which may push the folder to the Hub
        args.save_total_limit, args.save_only_model = None, only_model and not self.ends_here
        try:
            super()._save_checkpoint(model, trial)
        finally:
            args.save_total_limit, args.save_only_model = limit, only_model
        self.accelerator.wait_for_everyone()
        found = self.state.best_model_checkpoint
        if found != best and found is not None and is_aside(found):  # Trainer takes any folder of the best step
            self.state.best_model_checkpoint = best
            if args.should_save:
                self.state.save_to_json(os.path.join(folder, TRAINER_STATE_NAME))
        if args.should_save:
            manifest.finish(folder)
            self._drop_aside(folder)
            if not self.is_aside:
                rotate_checkpoints(
                    self._get_output_dir(trial), limit, self.state.best_model_checkpoint, use_mtime=True
                )

    def _mark(self, path: Path) -> None:
        if self.is_aside:
            path.write_text("The run had to end here. Its next checkpoint takes the place of this one.\n")
        else:
            path.unlink(missing_ok=True)

    def _drop_aside(self, folder: str) -> None:
        """A whole checkpoint in the folder, or a run that ended there, takes the place of the one that it went on
        from."""
        before = self.resumes_from
        if before is None or not is_aside(before):
            return
        there, path = Path(before).absolute(), Path(folder).absolute()
        if there != path and there.parent == path.parent:
            shutil.rmtree(there)

    def save_own(self, folder: str) -> None:
        """Write what a resumed run needs beside what Trainer saves into a checkpoint."""
        if self.data_facts is not None:
            save_facts(folder, self.data_facts)
        if self.run_facts is not None:
            save_options(folder, self.run_facts, list(self.resumed_inexactly))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_weights(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:  # every resume comes by here
            recorded = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
            self.state.best_model_checkpoint = recorded.best_model_checkpoint  # Trainer forgets one that was moved
            self._look_for_best(_FROM_NOW_ON)
            if self.state.global_step > self.state.max_steps:
                raise ValueError(
                    f"{checkpoint} is of step {self.state.global_step}, and this run ends at step "
                    f"{self.state.max_steps}: set max_steps or num_train_epochs as they were, or load the model from "
                    "it, which is trained for longer."
                )
        if checkpoint is not None and self.goes_on_inexactly:
            load_what_is_there(self, checkpoint)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None:
                require_same_optimizer(self, checkpoint)

    def _load_best_model(self) -> None:
        self._look_for_best("the weights of the last step stay")
        best = self.state.best_model_checkpoint
        if best is None:
            return
        require_whole(best, "the best checkpoint", OF_MODEL)
        if not load_weights(self.model, best):
            super()._load_best_model()

    def _look_for_best(self, then: str, trial: Any = None) -> None:
        """Find the best checkpoint where the run's folder was moved; where it is gone, say what then."""
        state = self.state
        best = state.best_model_checkpoint
        if best is None or os.path.isdir(best):
            return
        here = os.path.join(self._get_output_dir(trial), os.path.basename(best))
        if os.path.isdir(here):
            state.best_model_checkpoint = here
            self.say(f"the best checkpoint {best} is in {here} now.")
        else:
            self.say(f"the best checkpoint {best} is gone: {then}.")
            state.best_model_checkpoint = state.best_metric = state.best_global_step = None
            self.begin_selection()

    def begin_selection(self) -> None:
        """Forget what the best checkpoint was chosen by."""

    def checkpoint_folder(self, trial: Any = None) -> str:
        """That of the current step."""
        return os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def step_of_weights(self) -> int:
        """After a run that ended with its best checkpoint the weights are older than the last step."""
        best = self.state.best_global_step if self.args.load_best_model_at_end and not self.is_in_train else None
        return self.state.global_step if best is None else best

    def say(self, sentence: str) -> None:
        """Warn, once of all processes."""
        if self.is_world_process_zero():
            logger.warning(sentence)

"""What every trainer here does otherwise than Trainer: processes that train one model, sets that are numbered
and named, and ways to the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from selmix_hf.data.bad_images import Rows, naming_sets
from selmix_hf.data.classes import Numbering
from selmix_hf.data.collators import Collator, SelMixCollator
from selmix_hf.hub.background import TrainingPushes
from selmix_hf.hub.upload import (
    PushError,
    call_again,
    create_repository,
    help_after_failure,
    push_folder,
    require_base_on_the_hub,
)
from selmix_hf.models.peft_models import adapter_saved, base_name_of, has_adapter, mark_card
from selmix_hf.models.trainable import as_trained
from selmix_hf.training.changed_options import USED_WHEN_MADE, options_now, require_usable
from selmix_hf.training.finite import LABELLED, require_finite_gradients, sentence_on_inputs
from selmix_hf.training.health import require_finite, require_finite_weights
from selmix_hf.training.model_init import called_for, with_names_of
from selmix_hf.training.resuming import require_checkpoint, sentence_on_used_folder
from selmix_hf.training.same_data import require_same_data
from selmix_hf.training.search import hyperparameter_search
from selmix_hf.training.stopping import StoppingTrainer

logger = logging.get_logger(__name__)

_MESSAGE = "End of training"
_WITHOUT_BASE = (
    "Set model.peft_config['default'].base_model_name_or_path to the Hub id that everybody can load the base from, or "
    "push a whole model: trainer.model.merge_and_unload().push_to_hub(repo_id)."
)


class PushingTrainer(StoppingTrainer):
    """A `StoppingTrainer` with other ways to the Hub, after a run and during it: pushes upload a model and nothing
    else, say what to do when they fail, and never stop a run.

    After its `evaluate` or `predict` a run on several processes still averages gradients. A look at data marks the
    bare model as prepared; accelerate then leaves it as it is when training begins, without DistributedDataParallel,
    and every process silently trains a model of its own.
    """

    hub_model_id: str | None  # type: ignore[assignment]
    _training_pushes: TrainingPushes | None = None
    numbering: Numbering | None = None  # of the classes
    model_init: Any  # a function, or None
    own_rules: tuple[str, ...] = ()  # of `trainer_options.RULES`, beside those of every trainer
    used_when_made: tuple[str, ...] = USED_WHEN_MADE
    known_options: dict[str, Any]  # as they were when the trainer was made, or its latest run ended
    made_with: tuple[tuple[Any, ...], dict[str, Any]]  # the arguments, for others like it

    def __new__(cls, *args: Any, **kwargs: Any) -> PushingTrainer:
        made = super().__new__(cls)
        made.made_with = args, kwargs
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known_options = options_now(self)

    def check_evaluations(self, searched: bool = False) -> None:
        """Refuse what evaluation would stop at, see `checks.check_eval_sets`."""
        raise NotImplementedError

    # --- a run ---------------------------------------------------------------------------------------------------

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, inexact: bool = False, **kwargs: Any
    ) -> Any:
        """As Trainer's.

        Args:
            inexact: go on from a checkpoint that lacks the state of the optimizer, the schedule or the random numbers,
                such as one of `save_only_model`, or with options that the run did not begin with. One warning says
                what differs, and checkpoints and card keep it. Weights must be whole.

        Raises:
            FileNotFoundError: nothing to resume from, see `resuming.require_checkpoint`.
            ValueError: the arguments name a checkpoint that this call does not, a checkpoint is of other classes or
                labels, see `same_data.require_same_data`, or of other options, see `inexact.compare_options`, or
                options were changed that the trainer has used already, see `changed_options`.
            BadImageError: an image cannot be decoded.
            Stopped: SIGTERM or SIGINT ended the run, see `stopping.StoppingTrainer`.
        """
        require_usable(self, self.known_options)
        if resume_from_checkpoint is None and self.args.resume_from_checkpoint:
            raise ValueError(
                f"resume_from_checkpoint={self.args.resume_from_checkpoint!r} in the arguments is for scripts, and "
                "train() would begin anew: call train(resume_from_checkpoint=args.resume_from_checkpoint)."
            )
        checkpoint = require_checkpoint(resume_from_checkpoint, self.args.output_dir, self.say, inexact)
        if checkpoint is not None and self.data_facts is not None:
            require_same_data(checkpoint, self.data_facts)
        self.look_at_options(checkpoint, inexact)
        if checkpoint is None and (said := sentence_on_used_folder(self.args)):
            self.say(said)
        if self.args.world_size > 1 and getattr(self.model, "_is_accelerate_prepared", False):
            self.model._is_accelerate_prepared = False  # type: ignore[union-attr]
        try:
            with naming_sets(self._own_sets()):
                return super().train(checkpoint, *args, **kwargs)
        finally:
            self.known_options = options_now(self)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer's.

        Raises:
            BadImageError: an image cannot be decoded.
        """
        given = None if isinstance(eval_dataset, str | Mapping) else eval_dataset
        prefix = kwargs.get("metric_key_prefix", "eval")  # of several sets, Trainer evaluates each by itself
        title = "the set to evaluate" if prefix == "eval" else f"the set to evaluate as {prefix!r}"
        with naming_sets({title: given, **self._own_sets()}):
            return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's.

        Raises:
            BadImageError: an image cannot be decoded.
        """
        with naming_sets({"the set to predict": test_dataset}):
            return super().predict(test_dataset, *args, **kwargs)

    def _own_sets(self) -> dict[str, Any]:
        names = "train_dataset", "gain_dataset", "unlabeled_dataset"
        sets = {name: getattr(self, name, None) for name in names}
        several = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {"eval_dataset": self.eval_dataset}
        return {**sets, **several}

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, *args: Any, **kwargs: Any
    ) -> DataLoader[Any]:
        rows = dataset if isinstance(dataset, IterableDataset) else Rows(dataset)
        sampler = None if sampler_fn is None else lambda _: sampler_fn(dataset)
        loader: DataLoader[Any] = super()._get_dataloader(rows, description, batch_size, sampler, *args, **kwargs)
        return loader

    def numbered(self, dataset: Any, title: str) -> Any:
        """A set, or several by name, whose classes have the numbers that they have in the model.

        Raises:
            ValueError: as `numbering.renumbered`.
        """
        if self.numbering is None or dataset is None:
            return dataset
        if isinstance(dataset, Mapping):
            return {name: self.numbering.of(one, f"{title}[{name!r}]") for name, one in dataset.items()}
        return self.numbering.of(dataset, title)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        # with persistent workers Trainer keeps one loader for every dataset that is given as an object
        getattr(self, "_eval_dataloaders", {}).pop("eval", None)
        self.eval_dataset = self.numbered(self.eval_dataset, "eval_dataset")
        if not isinstance(eval_dataset, str):
            eval_dataset = self.numbered(eval_dataset, "eval_dataset")
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        return super().get_test_dataloader(self.numbered(test_dataset, "test_dataset"))

    def call_model_init(self, trial: Any = None) -> Any:
        return with_names_of(as_trained(called_for(self.model_init, trial)()), self.model)

    hyperparameter_search = hyperparameter_search

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = str(self.args.output_dir if output_dir is None else output_dir)
        with adapter_saved(self.model, folder) if self.args.should_save else nullcontext():
            super()._save(output_dir, state_dict)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As Trainer's.

        Raises:
            FloatingPointError: a loss or a gradient that is not finite, before the update. Under fp16, whose updates
                by such gradients are left out, a loss.
        """
        assert self.model is not None and self.numbering is not None
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        try:
            self.require_finite_loss(loss)
        except FloatingPointError as error:
            sample = sentence_on_inputs(inputs, self.drawn_from(), self.numbering.names)
            if not sample:
                require_finite_weights(self.model, self.state.global_step)
            raise FloatingPointError(f"{error} {sample}".rstrip()) from error
        if self.accelerator.sync_gradients and self.accelerator.scaler is None:
            require_finite_gradients(self.model, self.state.global_step)
        return loss

    def drawn_from(self) -> dict[str, tuple[Any, Collator]]:
        """The sets that a step draws from, each with what makes a batch of one of its samples."""
        own: Any = self.data_collator
        return {LABELLED: (self.train_dataset, own.collator if isinstance(own, SelMixCollator) else own)}

    def require_finite_loss(self, loss: Tensor) -> None:
        require_finite(loss, "loss", self.state.global_step)

    # --- after a run ---------------------------------------------------------------------------------------------

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = _MESSAGE,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Save the model to output_dir and upload it with its card, plots, split.json and results.json; whatever else
        lies in output_dir stays behind, see `upload.MODEL_FILES`.

        Args:
            commit_message, token, revision, private: as for Trainer.
            blocking: must stay True, so that a failure is seen.
            kwargs: of `create_model_card`.

        Returns:
            address of the commit; None on all processes but the first.

        Raises:
            PushError: as `upload.push_folder`; the saved model stays in output_dir.
            ValueError: an adapter whose base is not on the Hub; it stays there too.
        """
        if not blocking:
            raise ValueError("blocking=False would hide a failed push: leave it True.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._require_base(token)
        self.create_model_card(**kwargs)  # first without the Hub: a card may be wanted all the same
        message = None if commit_message == _MESSAGE else commit_message
        given = {"commit_message": message, "revision": revision, "private": private, **kwargs}
        again = call_again("trainer.push_to_hub", **given)
        private = self.args.hub_private_repo if private is None else private
        token = token or self.args.hub_token
        folder = str(self.args.output_dir)
        repo_id = create_repository(self._repository(), help_after_failure(folder, again), private, token)
        self.create_model_card(**{"model_name": repo_id, **kwargs})  # now the owner is known
        revision = revision or self.args.hub_revision
        return push_folder(
            folder, repo_id, again, private, revision, token, commit_message or _MESSAGE, self._tokenizer_files()
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's, which also pushes where `push_to_hub` is set: if that fails, the model is saved all the same
        and a warning says how to repeat the push."""
        super().save_model(output_dir, _internal_call=True)
        if self.args.push_to_hub and not _internal_call:
            try:
                self.push_to_hub(commit_message="Model save")
            except PushError as error:
                logger.warning(str(error))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; that of an adapter says so."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            mark_card(self.model, str(self.args.output_dir))

    # --- during a run --------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Called by `Trainer.__init__` where `push_to_hub` is set: what would stop every push is said before the run.

        Raises:
            PushError: as `upload.create_repository`.
            ValueError: an adapter whose base is not on the Hub.
        """
        if not self.is_world_process_zero():
            return
        self._require_base(token)
        self.hub_model_id = create_repository(
            self._repository(),
            "Nothing was trained yet: mend that, or set push_to_hub=False and call push_to_hub() after the run.",
            self.args.hub_private_repo if private is None else private,
            token or self.args.hub_token,
        )
        self._training_pushes = TrainingPushes(str(self.args.output_dir), logger.warning)
        strategy = HubStrategy(self.args.hub_strategy)
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            logger.warning(
                f"hub_strategy={strategy.value!r} uploads the model of a checkpoint without "
                "optimizer, schedule and random states: a run can be resumed from output_dir only."
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy, pushes = self.args.hub_strategy, self._training_pushes
        if (
            pushes is None
            or self.is_aside
            or strategy == HubStrategy.END
            or (pushes.busy() and not self.args.hub_always_push)
        ):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        of_checkpoint = {
            HubStrategy.CHECKPOINT: ["last-checkpoint"],
            HubStrategy.ALL_CHECKPOINTS: [Path(checkpoint_folder).name],
        }
        pushes.push(
            checkpoint_folder,
            [None, *of_checkpoint.get(HubStrategy(strategy), [])],
            self._tokenizer_files(),
            repo_id=self.hub_model_id,
            revision=self.args.hub_revision,
            token=self.args.hub_token,
            commit_message=f"Training in progress, step {self.state.global_step}",
        )

    def _finish_current_push(self) -> None:
        if self._training_pushes is None:
            return
        try:
            self._training_pushes.wait()
        except KeyboardInterrupt:
            self.is_in_train = False  # all that is left of a run is to wait here
            logger.warning(
                "the wait for the push of a checkpoint was interrupted. Nothing is lost: the checkpoints are in "
                f"{self.args.output_dir}, and trainer.push_to_hub() uploads the model."
            )
            raise

    def _require_base(self, token: str | None) -> None:
        if has_adapter(self.model):
            base = base_name_of(self.model)
            require_base_on_the_hub(base, None, token or self.args.hub_token, "adapter", _WITHOUT_BASE)

    def _repository(self) -> str:
        return self.args.hub_model_id or self.hub_model_id or Path(str(self.args.output_dir)).absolute().name

    def _tokenizer_files(self) -> list[str]:
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        return list(getattr(tokenizer, "vocab_files_names", {}).values())

"""`SelMixTrainer`: Trainer's hooks, and the parts that do what they ask for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction
from transformers.utils import logging

from selmix_hf.config import SelMixConfig
from selmix_hf.data.bad_images import behind
from selmix_hf.data.collators import Collator, ImageTransform, SelMixCollator, default_collator
from selmix_hf.features.stored import FEATURES, FeatureDataset
from selmix_hf.method.confusion import ClassStatistics
from selmix_hf.method.objectives import Objective
from selmix_hf.mixing.mixer import InputMixer, Mixing
from selmix_hf.models.peft_models import find_trained_head
from selmix_hf.training import checks
from selmix_hf.training.base import PushingTrainer
from selmix_hf.training.changed_options import USED_BY_PARTS
from selmix_hf.training.evaluations import Evaluations
from selmix_hf.training.gain_set import GainSet
from selmix_hf.training.head_start import HeadStart
from selmix_hf.training.health import HealthWatch, blamed_on_weights
from selmix_hf.training.loss import MixedLoss
from selmix_hf.training.optimizer import make_optimizer
from selmix_hf.training.pair_loader import DrawPlan, PairLoader, SampleLoader, data_loader
from selmix_hf.training.passes import Passes
from selmix_hf.training.period import Periods, running
from selmix_hf.training.pseudo_labels import PseudoLabels, prepared_teacher
from selmix_hf.training.run_card import card_of_run, push_head_to_hub
from selmix_hf.training.selection import Selection
from selmix_hf.training.sets import Sets
from selmix_hf.training.state import PairState, geometry_of
from selmix_hf.training.steering import Refresh, Steering

logger = logging.get_logger(__name__)


class SelMixTrainer(PushingTrainer):
    """`transformers.Trainer` that fine-tunes a classifier for an objective of its confusion matrix.

    Args:
        model: a classifier whose logits come from one linear layer (or the mean of two), found by probing; with an
            adapter, a `peft.PeftModel` (docs/lora.md).
        args: a `SelMixConfig`.
        train_dataset: labelled and long-tailed; the pairs are drawn from it.
        gain_dataset: validation set that steers the gains; every class must be in it, balance is not needed.
        eval_dataset: for monitoring and for choosing the checkpoint; default `gain_dataset`, and the log says so.
        objective: overrides `args.objective`: a name, a callable psi(C), or an `objectives.Objective`.
        mixing: overrides `args.mixing`: a function (first, second, coefficient) -> mixed, or (mixed, share of the
            first), of tensors B x ..., B x ... and B: the floating-point inputs of the model, or with a frozen
            backbone the stored features, B x D. What it draws is its own affair: resume is exact where it draws from
            torch's global generator, any number of processes gives the same only where it draws nothing.
        sample_weights: overrides `args.sampling`: single samples are drawn, each as often as its weight says (N of
            `train_dataset`, none negative), instead of pairs.
        train_transform, eval_transform: image (PIL, RGB) -> tensor; default is what `processing_class` does.
        processing_class: image processor, tokenizer, ...; saved with the model.
        data_collator: batches raw examples into model inputs with "labels", for data that are not images.
        head_name: the head's module path, where the search should not decide.
        label_column: default: found from the dataset's features.
        class_order: of the model's outputs, as names or numbers of the classes in train_dataset, for a model that
            does not name its classes and was trained on them in another order.
        unlabeled_dataset: the second samples come from it, by their current pseudo-labels; a class that has none there
            falls back to `train_dataset`. Labels that it may have are never read.
        teacher: gives the pseudo-labels instead of the model: called with the model's inputs by name, without
            gradient, it returns logits or a model output.
        unlabeled_labels: true classes of `unlabeled_dataset` (N), for the log alone, and for
            `pseudo_label_source="oracle"`.
        model_init: instead of `model`, makes one for every `train`, with parts of the run for it; see docs/search.md.
        compute_metrics: as for Trainer; its numbers come beside the package's own, which need no other.
        kwargs: as for Trainer.

    Attributes:
        head: the `head.ClassifierHead`.
        pair_state: P, the multipliers, the pseudo-labels and the period; saved with every checkpoint.
        sample_weights: of the training samples, shape N, where single ones are drawn; None where pairs are.
        pseudo_labels: of `unlabeled_dataset`, shape N, -1 for samples that are not used.
        latest_refresh: the latest `steering.Refresh`, what an `on_refresh(trainer)` of a callback looks at.
        gain: G of it, K x K; None where single samples are drawn.
        health: the `health.HealthWatch`; its `said` names what was warned of.
        passes, gain_set, draws, unlabeled, evaluations, mixer: the parts of the run, see their modules.
        timed: called with the name of a part of the work, gives a context around it; to be replaced by who measures.
        gain_counts: counts (K x K) of `gain_dataset` at the latest refresh, and once training has ended those of the
            weights that it returned; `pair_state.start_counts` are those of the start.

    Raises:
        ValueError, TypeError: on data or options that cannot work, see `checks`; `head.HeadError` for the model.
    """

    args: SelMixConfig
    data_collator: SelMixCollator
    model: PreTrainedModel
    objective: Objective
    used_when_made = (*PushingTrainer.used_when_made, *USED_BY_PARTS)

    def __init__(
        self,
        model: nn.Module | None = None,
        args: SelMixConfig | None = None,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        gain_dataset: Any = None,
        objective: str | Callable[[Tensor], Tensor] | Objective | None = None,
        mixing: Mixing | None = None,
        sample_weights: ArrayLike | None = None,
        train_transform: ImageTransform | None = None,
        eval_transform: ImageTransform | None = None,
        head_name: str | None = None,
        label_column: str | None = None,
        class_order: Sequence[str | int] | None = None,
        unlabeled_dataset: Any = None,
        teacher: Callable[..., Any] | None = None,
        unlabeled_labels: Any = None,
        model_init: Callable[..., Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        args = SelMixConfig() if args is None else copy.copy(args)  # what is worked out is this run's alone
        model = checks.check_model_and_args(model, model_init, args, kwargs, processing_class)
        checks.check_datasets(train_dataset, gain_dataset, eval_dataset)
        checks.check_unlabeled(unlabeled_dataset, teacher, unlabeled_labels, args)
        own = mixing, teacher, kwargs.get("compute_loss_func")
        checks.check_functions(model, args, *own, unlabeled_dataset, sample_weights)
        given = unlabeled_dataset, unlabeled_labels, args, label_column, sample_weights, class_order
        sets = self.sets = Sets(train_dataset, gain_dataset, *given)
        self.timed: Callable[[str], AbstractContextManager[object]] = lambda part: nullcontext()
        how = processing_class, data_collator
        super().__init__(
            model=model,
            args=args,
            data_collator=SelMixCollator(
                default_collator(sets.train, *how, train_transform, sets.label_column, model),
                default_collator(sets.gain, *how, eval_transform, sets.label_column, model),
                args.reuse_samples,
                for_inputs=mixing is None and args.mixing != "feature",
            ),
            train_dataset=sets.train,
            eval_dataset=sets.for_evaluation(eval_dataset),
            processing_class=processing_class,
            compute_metrics=compute_metrics and self._metrics_beside(compute_metrics),
            **kwargs,
        )
        self.loss_is_scaled_for_ga = False  # a mean over the micro-batch: Trainer divides it by the accumulation steps
        self.model_accepts_loss_kwargs = False
        self.model_init = model_init
        if eval_dataset is None and sets.sampling is None:
            logger.warning("no eval_dataset: gain_dataset, which steers the training, also selects the checkpoint.")

        self._given = head_name, args.mixing if mixing is None else mixing, prepared_teacher(teacher, args.device)
        self._probe = self._prepare_inputs(checks.check_batches(sets, self.data_collator))
        self.find_head()
        args.work_out(self.head.num_classes)
        self.given_rate = args.learning_rate
        checks.check_mixer(self.mixer, args, sets, self.head, self.data_collator, self._prepare_inputs)
        sets.read(self.model, self.head.num_classes)
        self.numbering, self.data_facts, self.train_dataset = sets.numbering, sets.facts, sets.train
        self.eval_dataset = sets.gain if eval_dataset is None else self.numbered(self.eval_dataset, "eval_dataset")
        self.objective = args.make_objective(objective, sets.train_counts)
        checks.check_objective(self.objective, self.head.num_classes)
        self.make_parts()
        self.check_evaluations()

    def check_evaluations(self, searched: bool = False) -> None:
        measured = None if self.compute_metrics else partial(self.evaluations.of_perfect, per_class=searched)
        how = self.sets.evaluated, self.data_collator.eval_collator, measured, searched
        checks.check_eval_sets(self.eval_dataset, self.args, *how)

    def find_head(self) -> None:
        """Of the model that there is now, and what mixes its inputs."""
        name, mixing, _ = self._given
        self.head = find_trained_head(self.model, self._probe, name, self.args.freeze_backbone)
        self.mixer = None if mixing == "feature" else InputMixer(mixing, self.model)

    def make_parts(self) -> None:
        """Those of a run, anew."""
        args, sets, head = self.args, self.sets, self.head
        self.gain_dataset, self.unlabeled_dataset, self.label_column = sets.gain, sets.unlabeled, sets.label_column
        self.class_names, self.train_counts = sets.class_names, sets.train_counts
        self.sampling, self.sample_weights = sets.sampling, sets.sample_weights
        how = self._prepare_inputs, self.compute_loss_context_manager, str(self.accelerator.mixed_precision)
        self.passes = Passes(self.model, head, args, self.data_collator, *how, self.is_world_process_zero())
        self.gain_set = GainSet(sets, self.passes)
        self.unlabeled = None if sets.unlabeled is None else PseudoLabels(sets, self.passes, self._given[2])
        plan = DrawPlan(args, self.passes.seed, lambda: self.pair_state, lambda: self._train_batch_size)
        self.draws: PairLoader | SampleLoader
        if sets.sample_weights is None:
            self.draws = PairLoader(sets, plan, self.unlabeled)
            self.steering = Steering(self.objective, args, head, sets.class_names, self.draws)
        else:
            self.draws = SampleLoader(sets.train, sets.sample_weights, plan)
        self.loss = MixedLoss(args, head, self.mixer)
        self.evaluations = Evaluations(self.objective, args, sets.class_names, sets.train_counts)
        self.health = HealthWatch(self.objective, logger.warning)
        self.begin_selection()
        self.pair_state = PairState(geometry=geometry_of(self))
        self.latest_refresh: Refresh | None = None
        self.gain_counts: Tensor | None = None
        self.train_features: FeatureDataset | None = None  # stored ones, while a frozen run lasts
        self.head_start: HeadStart | None = None
        self.remove_callback(Periods)
        self.periods = Periods(self)
        self.add_callback(self.periods)

    @property
    def gain(self) -> Tensor | None:
        """G of the latest refresh, K x K."""
        return None if self.latest_refresh is None else self.latest_refresh.gain

    @property
    def pseudo_labels(self) -> Tensor | None:
        """The current classes of the unlabelled samples, shape N, -1 for those that are not used."""
        return self.pair_state.pseudo_labels

    def gain_set_statistics(self) -> ClassStatistics:
        """Of the gain set under the current weights."""
        with self.timed("statistics passes"):
            return self.gain_set.statistics(self.step_of_weights(), self.state.best_global_step)

    def gain_set_features(self) -> FeatureDataset:
        """Features of `gain_dataset` under the current weights, on every process."""
        return self.gain_set.features()

    def training_features(self, per_class: int) -> FeatureDataset:
        """Those of up to so many samples a class of `train_dataset`, the same on every process."""
        return self.passes.some_of_each(self.sets.train, self.sets.train_labels, per_class)

    def predicted_classes(self, dataset: Any) -> Tensor:
        """The class that the model gives each sample, shape N, on every process; labels are not looked at. With a
        frozen backbone and `feature_cache_dir`, from stored features."""
        with self.timed("evaluation"):
            return self.passes.classes_of(dataset)

    # --- training ------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; with a frozen backbone the loop runs on stored features, while `model` stays the whole one."""
        with running(self):
            output = super().train(*args, **kwargs)
            self.periods.end_run()
            return output

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.args.freeze_backbone:
            logger.info("freeze_backbone: computing the pooled features of train_dataset and gain_dataset once.")
            with self.timed("features"):
                self.train_features = self.store_features()
        if self.is_in_train:
            self.head_start = HeadStart.prepare(self, self.given_rate, self.resumes_from)
        with self.timed("features"):  # of second samples
            loader = data_loader(self.draws, self.train_features, self.data_collator)
            prepared: DataLoader[Any] = self.accelerator.prepare(loader)
            return prepared

    def store_features(self) -> FeatureDataset:
        """Features of the training set, view by view; those of the gain set are made beside."""
        self.passes.stored(self.sets.gain, self.sets.gain_labels)
        stored = FeatureDataset(self.passes.views_of(self.sets.train), self.sets.train_labels)
        if self.gain_set.soft:
            self.gain_set.fill_up(stored)
        return stored

    def assign_head(self, weight: Tensor, bias: Tensor | None) -> None:
        """Give every process the first one's weights (K x D) and biases (K) of the head."""
        device = self.args.device
        self.head.assign(broadcast(weight.to(device)), None if bias is None else broadcast(bias.to(device)))
        self.gain_set.forget()

    def drawn_from(self) -> dict[str, tuple[Any, Collator]]:
        """See `PushingTrainer.drawn_from`."""
        sets, second = super().drawn_from(), self.unlabeled_dataset
        return sets if second is None else {**sets, "unlabeled_dataset": (second, self.data_collator.collator)}

    def require_finite_loss(self, loss: Tensor) -> None:
        self.loss.require_finite(self.state.global_step)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = self.loss(model, inputs, self.compute_loss_func, return_outputs)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The head's parameters first (the logged learning rate is theirs), the backbone's at a rate of their own."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self, self.model if model is None else model, self.head)
        return self.optimizer

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0 if FEATURES in inputs else super().floating_point_ops(inputs)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As Trainer's; beside the loss, where inputs are mixed, the mean share of the first samples. Evaluations are
        remembered for the card."""
        if self.mixer is not None and "loss" in logs:
            share = torch.tensor([self.mixer.mean_share()], device=self.args.device)
            logs = {**logs, "mixed_share": float(self.accelerator.gather(share).mean())}
        self.evaluations.remember(logs, self.step_of_weights())
        super().log(logs, *args, **kwargs)

    # --- evaluation and choice -----------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self.evaluations.begin(metric_key_prefix, behind(dataloader.dataset))
        if description != "Evaluation" or self.compute_metrics is not None:  # predict, or metrics of the user's own
            own = prediction_loss_only, ignore_keys, metric_key_prefix
            output = super().evaluation_loop(dataloader, description, *own)
            return self.evaluations.of_predictions(output, per_class=not self.is_in_train)
        dataset = behind(dataloader.dataset)
        labels_N = self.sets.evaluated(dataset, f"the {metric_key_prefix} set")
        self.callback_handler.eval_dataloader = dataloader
        what = self.model, self.state.global_step, f"the {metric_key_prefix} set"
        blamed = blamed_on_weights(*what) if self.is_in_train else nullcontext()
        with self.timed("evaluation"), blamed:
            if self.is_in_train and dataset is self.gain_dataset:
                statistics = self.gain_set_statistics()
            else:
                statistics = self.passes.statistics_of(dataset, labels_N, self._show_progress)
        return self.evaluations.of_statistics(statistics, per_class=not self.is_in_train)

    def _metrics_beside(self, compute_metrics: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        return lambda given: self.evaluations.beside(compute_metrics, given, per_class=not self.is_in_train)

    def begin_selection(self) -> None:
        """Forget what earlier runs chose by."""
        self.selection, self.evaluations.recalls = Selection(self.objective, self.args, self.say), {}

    def is_new_best(self) -> bool:
        """Evaluate as the choice of the checkpoint does; whether nothing so far was better."""
        return bool(self._determine_best_metric(self._evaluate(None, None, skip_scheduler=True), None))

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.evaluations.recalls = {}
        return super()._evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As Trainer's, but see `selection.Selection.choose`, and `Periods.settled`."""
        name, step = self.selection.metric, self.state.global_step
        if name not in metrics:
            return super()._determine_best_metric(metrics, trial)
        may_win = step == 0 or self.periods.settled
        recalls = self.evaluations.recalls.get(name, ())
        return self.selection.choose(metrics[name], recalls, self.state, self.control.should_save, may_win)

    # --- saving, loading, cards ----------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.timed("saving"):
            super()._save_checkpoint(model, trial)

    def save_own(self, folder: str) -> None:
        super().save_own(folder)
        self.periods.save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self.periods.resume(checkpoint)  # every resume comes by here
        super()._load_optimizer_and_scheduler(checkpoint)

    def create_model_card(  # type: ignore[override]
        self, model_name: str | None = None, dataset_args: Any = None, **kwargs: Any
    ) -> None:
        """Write README.md into output_dir: numbers of `evaluate(test, metric_key_prefix="test")`, or else those of
        validation, said to be so.

        Args:
            model_name: default is that of the repository, or of output_dir.
            dataset_args: not used; Hub ids of the sets are found where they were loaded from the Hub.
            kwargs: see `card.render`.
        """
        if self.is_world_process_zero():
            card = card_of_run(self, model_name or self._repository(), **kwargs)
            card.save(Path(str(self.args.output_dir)) / "README.md")

    push_head_to_hub = push_head_to_hub

    def _show_progress(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

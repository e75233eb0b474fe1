"""`SelMixTrainer`. Beside the trainers that it is made of the only module that knows Trainer's hooks."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from numpy.typing import ArrayLike
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from selmix_hf.config import SelMixConfig
from selmix_hf.data.collators import SelMixCollator, default_collator, probe_batch
from selmix_hf.data.labels import checked_labels
from selmix_hf.data.weighted import SAMPLE_WEIGHTS, sampling_weights
from selmix_hf.features.frozen import head_alone
from selmix_hf.features.stored import FEATURES
from selmix_hf.method.confusion import ClassStatistics, distinct_names
from selmix_hf.method.draws import largest_repeat
from selmix_hf.method.gain import head_gain, metric_gradient
from selmix_hf.method.objectives import Objective, default_target_share
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.mixing.mixer import DRAWN, InputMixer, Mixing
from selmix_hf.models.head import freeze_batch_norm, logits_of
from selmix_hf.models.peft_models import base_of, find_trained_head
from selmix_hf.reports.metrics import refresh_report
from selmix_hf.training import checks
from selmix_hf.training.callbacks import RefreshCallback
from selmix_hf.training.checkpoints import load_pair_state
from selmix_hf.training.drawing_trainer import DrawingTrainer
from selmix_hf.training.health import FiniteCheck, HealthWatch, require_finite, require_finite_weights, staleness
from selmix_hf.training.optimizer import parameter_groups
from selmix_hf.training.pseudo_label_trainer import prepared_teacher
from selmix_hf.training.refit import refit_head, with_gain_set
from selmix_hf.training.state import PairState

logger = logging.get_logger(__name__)

_WHOLE_RUN = 2000  # steps


class SelMixTrainer(DrawingTrainer):
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
        data_collator: batches raw examples into model inputs with "labels", for data that are not PIL images.
        head_name: the head's module path, where the search should not decide.
        label_column: default: found from the dataset's features.
        unlabeled_dataset: the second samples come from it, by their current pseudo-labels; a class that has none there
            falls back to `train_dataset`. Labels that it may have are never read.
        teacher: gives the pseudo-labels instead of the model: called with the model's inputs by name, without
            gradient, it returns logits or a model output.
        unlabeled_labels: true classes of `unlabeled_dataset` (N), for the log alone, and for
            `pseudo_label_source="oracle"`.
        compute_metrics: as for Trainer; its numbers come beside the package's own, which need no other.
        kwargs: as for Trainer.

    Attributes:
        head: the `head.ClassifierHead`.
        pair_state: P, the multipliers, the pseudo-labels and the period; saved with every checkpoint.
        sample_weights: of the training samples, shape N, where single ones are drawn; None where pairs are.
        pseudo_labels: of `unlabeled_dataset`, shape N, -1 for samples that are not used.
        gain: G of the latest refresh, K x K; None where single samples are drawn.
        health: the `health.HealthWatch`; its `said` names what was warned of.
        gain_counts: counts (K x K) of `gain_dataset` at the latest refresh, and once training has ended those of the
            weights that it returned; `pair_state.start_counts` are those of the start.

    Raises:
        ValueError, TypeError: on data or options that cannot work, see `checks`; `head.HeadError` for the model.
    """

    args: SelMixConfig
    data_collator: SelMixCollator
    model: PreTrainedModel
    objective: Objective

    def __init__(
        self,
        model: nn.Module | None = None,
        args: SelMixConfig | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        gain_dataset: Any = None,
        objective: str | Callable[[Tensor], Tensor] | Objective | None = None,
        mixing: Mixing | None = None,
        sample_weights: ArrayLike | None = None,
        train_transform: Callable | None = None,
        eval_transform: Callable | None = None,
        head_name: str | None = None,
        label_column: str | None = None,
        unlabeled_dataset: Any = None,
        teacher: Callable[..., Any] | None = None,
        unlabeled_labels: Any = None,
        compute_metrics: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        args = SelMixConfig() if args is None else copy.copy(args)  # what is worked out is this run's alone
        checks.check_model_and_args(model, args, processing_class)
        checks.check_datasets(train_dataset, gain_dataset, eval_dataset)
        if args.gain_set_use != "steer":
            logger.warning_once(
                "gain_dataset trains too: numbers on gain_dataset are optimistic, report those of a test set."
            )
        num_own = len(train_dataset)
        if args.gain_set_use == "train":
            train_dataset = with_gain_set(train_dataset, gain_dataset)
        checks.check_unlabeled(unlabeled_dataset, teacher, unlabeled_labels, args)
        self.sampling = args.sampling if sample_weights is None else SAMPLE_WEIGHTS
        checks.check_single_samples(self.sampling, args, mixing, unlabeled_dataset)
        if mixing is not None and not callable(mixing):
            raise TypeError(f"mixing must be a function here, found {mixing!r}: names go to SelMixConfig(mixing=...).")
        if teacher is not None and teacher is model:
            raise ValueError("teacher is the model itself, which gives the pseudo-labels anyway: leave it out.")
        column = self.label_column = checks.label_column_of(train_dataset, label_column)
        self.gain_dataset = gain_dataset
        self.unlabeled_dataset = checks.without_labels(unlabeled_dataset, train_dataset, column)
        super().__init__(
            model=model,
            args=args,
            data_collator=SelMixCollator(
                default_collator(train_dataset, processing_class, data_collator, train_transform, column),
                default_collator(gain_dataset, processing_class, data_collator, eval_transform, column),
                args.reuse_samples,
                for_inputs=mixing is None and args.mixing != "feature",
            ),
            train_dataset=train_dataset,
            eval_dataset=gain_dataset if eval_dataset is None else eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics and self._metrics_beside(compute_metrics),
            **kwargs,
        )
        self.loss_is_scaled_for_ga = False  # a mean over the micro-batch: Trainer divides it by the accumulation steps
        self.model_accepts_loss_kwargs = False
        if eval_dataset is None and self.sampling is None:
            logger.warning("no eval_dataset: gain_dataset, which steers the training, also selects the checkpoint.")

        probe = self._prepare_inputs(checks.check_batches(train_dataset, gain_dataset, self.data_collator))
        if self.unlabeled_dataset is not None:
            checks.check_batches(self.unlabeled_dataset, gain_dataset, self.data_collator, "unlabeled_dataset")
            probe_batch(self.unlabeled_dataset, self.data_collator.eval_collator, "unlabeled_dataset")
        self.teacher = prepared_teacher(teacher, args.device)
        self.head = find_trained_head(self.model, probe, head_name, args.freeze_backbone)
        args.work_out(self.head.num_classes)
        self._given_rate = args.learning_rate
        self._mixer = None
        if mixing is not None or args.mixing != "feature":
            self._mixer = InputMixer(args.mixing if mixing is None else mixing, self.model)
            self._mixer.check(self._mixed_inputs())
        known = base_of(self.model), train_dataset, self.label_column, self.head.num_classes
        self.class_names = distinct_names(checks.resolve_class_names(*known))
        self._train_labels = self._labels_of(train_dataset, "train_dataset")
        self._gain_labels = self._labels_of(gain_dataset, "gain_dataset")
        self._unlabeled_truth = (
            None
            if unlabeled_labels is None
            else checked_labels(
                np.asarray(unlabeled_labels), len(unlabeled_dataset), "unlabeled_labels", self.class_names
            )
        )
        drawn = self.sampling, self._train_labels, self.head.num_classes, sample_weights
        self.sample_weights = None if self.sampling is None else sampling_weights(*drawn)
        self._drawn_counts = np.bincount(self._train_labels, minlength=self.head.num_classes)
        self.train_counts = np.bincount(self._train_labels[:num_own], minlength=self.head.num_classes)
        self.objective = args.make_objective(objective, self.train_counts)
        checks.check_objective(self.objective, self.head.num_classes)
        self._begin_selection()
        measured = None if compute_metrics else lambda: self._metrics(torch.eye(self.head.num_classes).long())
        checks.check_eval_sets(self.eval_dataset, args, self._labels_of, self.data_collator.eval_collator, measured)

        self.pair_state = PairState(geometry=self._geometry())
        self.gain: Tensor | None = None
        self.gain_counts: Tensor | None = None
        self._stored_features, self._statistics_at, self._train_features = {}, {}, None
        self.health = HealthWatch(self.objective, logger.warning)
        self._finite_loss, self._resumed = FiniteCheck(torch.zeros(())), False
        self.add_callback(RefreshCallback(self))

    # --- a period: statistics, gains, P --------------------------------------------------------------------------

    def start_run(self) -> None:
        """Make the start a candidate for the best checkpoint, so that a run never returns something worse."""
        self._statistics_at = {}
        if self.state.global_step > 0:
            return
        before = self.pair_state if self._resumed else PairState()  # else train() may have been called before
        self.pair_state = PairState(geometry=self._geometry(), start_counts=before.start_counts)
        self._begin_selection()
        if self.args.gain_set_use != "steer" and not self._resumed:  # checkpoint-0 has the refitted head
            refit_head(self)
        if self.pair_state.start_counts is None:
            self.pair_state.start_counts = self._gain_set_statistics().counts.cpu()
            self.health.start(self.pair_state.start_counts)
        keeps_best = self.args.load_best_model_at_end and self.args.eval_strategy != "no"
        if keeps_best:
            self._is_new_best()
        if self._head_start is not None and not self._resumed:
            self._head_start.begin(self, self._is_new_best if keeps_best else None)
        self._start_average()
        if keeps_best:
            self._save_checkpoint(self.model, None)
            if self.state.best_global_step == 0:  # not where it has no score
                self.state.best_model_checkpoint = self._checkpoint_folder()

    def _is_new_best(self) -> bool:
        return bool(self._determine_best_metric(self._evaluate(None, None, skip_scheduler=True), None))

    def refresh(self) -> None:
        """Look at the gain set when a period begins and, where pairs are drawn, work out P from it."""
        period = self.state.global_step // self.args.refresh_steps
        if self.pair_state.period == period:  # resumed in the middle of it
            return
        statistics = self._gain_set_statistics()
        self.gain_counts = statistics.counts.cpu()
        self.pair_state = replace(self.pair_state, period=period)
        if self.sample_weights is None:
            self._refresh_pairs(statistics)
        else:
            repeat = self.sample_weights.max() / self.sample_weights.sum() * self._draws_a_step()
            report = refresh_report(self.objective, self.gain_counts, self.class_names, {})
            self.log({**report, "largest_repeat": float(repeat * self.args.refresh_steps)})
            self.health.look(None, None, self.state.log_history)
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "on_refresh"):
                callback.on_refresh(self)

    def _refresh_pairs(self, statistics: ClassStatistics) -> None:
        """P of the period that begins, from the gain set and the current weights."""
        counts, beta = statistics.counts.cpu(), (self.args.beta_min + 1) / 2
        soft = self._soft_confusion() if self._soft else None
        soft_counts = None if soft is None else soft.counts
        multipliers = self.objective.update_multipliers(self.pair_state.multipliers, counts, soft_counts)
        gain = None
        if soft is not None:
            gain = soft.gain(self.objective, multipliers, soft.centroids(statistics.feature_sums), beta)
        del soft, soft_counts  # K x K, not beside those of the derivative
        gradient = metric_gradient(self.objective, counts, multipliers=multipliers)
        if gain is None:
            gain = head_gain(self.head, statistics.centroids, gradient, beta)
        pseudo_labels = self._new_pseudo_labels()
        second_K = self._second_counts(pseudo_labels)
        scale = 1.0
        if isinstance(self.args.temperature, float):  # "auto" does not see that multipliers make gains larger
            scale += max((float(multipliers[c.name].max()) for c in self.objective.constraints), default=0.0)
        distribution = pair_distribution(
            gain / scale,
            self.args.pair_sampling,
            self.args.temperature,
            self.args.target_share or default_target_share(self.objective, self.head.num_classes),
            torch.as_tensor(self._drawn_counts > 0),
            torch.as_tensor((self._drawn_counts if second_K is None else second_K) > 0),
        )
        probability = broadcast(distribution.probability.contiguous()).cpu()
        self.gain = gain.cpu()
        stale = staleness(self.pair_state.probability, probability, self.gain)
        self.pair_state = replace(
            self.pair_state, probability=probability, multipliers=multipliers, pseudo_labels=pseudo_labels
        )

        report = refresh_report(self.objective, counts, self.class_names, multipliers, gain, distribution, gradient)
        repeat = largest_repeat(
            probability, self._drawn_counts, self._draws_a_step() * self.args.refresh_steps, second_K
        )
        self.log({**report, **stale, "largest_repeat": repeat})
        reach = self.args.learning_rate * max(self.state.max_steps, _WHOLE_RUN)  # a trial run is short
        self.health.look(gain, distribution, self.state.log_history, reach, self._settled)

    # --- training ------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; with a frozen backbone the loop runs on stored features, while `model` stays the whole one."""
        with head_alone(self.model, self.head) if self.args.freeze_backbone else nullcontext():
            try:
                output = super().train(*args, **kwargs)
                require_finite_weights(self.model, self.state.global_step)
                self.gain_counts = self._gain_set_statistics().counts.cpu()
                self._say_what_was_chosen()
                return output
            finally:
                self._stored_features, self._statistics_at, self._train_features = {}, {}, None
                self._gain_set_samples = None

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As Trainer's; stops where the loss was not finite, before the update, when backward is queued already."""
        loss = super().training_step(*args, **kwargs)
        require_finite(self._finite_loss, "loss", self.state.global_step)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        drawn = {name: inputs.pop(name) for name in DRAWN if name in inputs}
        coefficient, labels = drawn.get("mixing_coefficient"), inputs.pop("labels")
        training = coefficient is not None or model.training
        if training and not self.args.freeze_backbone:
            freeze_batch_norm(model)
        at_head: AbstractContextManager = nullcontext()
        if coefficient is not None and self._mixer is not None:
            inputs = self._mixer(inputs, labels, drawn)
        elif coefficient is not None:
            at_head = self.head.mix(coefficient, drawn.get("mixing_index"))
        with at_head:
            logits = logits_of(model(**inputs))
        outputs = None
        if return_outputs or self.compute_loss_func is not None:
            outputs = SequenceClassifierOutput(logits=logits)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=None)
        else:
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.args.label_smoothing_factor)
        if training:
            self._finite_loss = FiniteCheck(loss.detach())
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The head's parameters first (the logged learning rate is theirs), the backbone's at a rate of their own."""
        if self.optimizer is None:
            whole: Any = self.model if model is None else model
            cls, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, whole)
            checks.check_optimizer(cls, options, self.args.optim)
            groups = parameter_groups(
                whole,
                self.head,
                set(self.get_decay_parameter_names(whole)),
                self.args.learning_rate,
                cast(float, self.args.backbone_learning_rate),
                self.args.weight_decay,
            )
            self.optimizer = cls(groups, **options)
        return self.optimizer

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As Trainer's; beside the loss, where inputs are mixed, the mean share of the first samples."""
        if self._mixer is not None and "loss" in logs:
            share = torch.tensor([self._mixer.mean_share()], device=self.args.device)
            logs = {**logs, "mixed_share": float(self.accelerator.gather(share).mean())}
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0 if FEATURES in inputs else super().floating_point_ops(inputs)

    # --- saving and loading --------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        require_finite_weights(self.model, self.state.global_step)
        if self.args.should_save:  # before Trainer's part, which may push the folder to the Hub
            os.makedirs(self._checkpoint_folder(), exist_ok=True)
            self.pair_state.average = {} if self._average is None else self._average.tensors
            self.pair_state.learning_rate = self.args.learning_rate
            self.pair_state.selection = self.selection.saved()
            self.pair_state.save(self._checkpoint_folder())
        super()._save_checkpoint(model, trial)

    def _checkpoint_folder(self) -> str:
        return os.path.join(self._get_output_dir(None), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._resumed = checkpoint is not None
        if checkpoint is not None:  # every resume comes by here
            self.pair_state = load_pair_state(checkpoint, self._geometry())
            self.selection.load(self.pair_state.selection, self.state.best_metric)
            self._start_average()
            if self._average is not None:
                self._average.load(self.pair_state.average)
        super()._load_optimizer_and_scheduler(checkpoint)

"""The training that SelMix starts from, for users without a checkpoint.

Shape suffixes: B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from selmix_hf.data.bad_images import kept_images
from selmix_hf.data.classes import Numbering, label_column_of, read_labels
from selmix_hf.data.collators import Collator, ImageTransform, SelMixCollator, default_collator
from selmix_hf.data.examples import is_stream
from selmix_hf.data.random_state import seed_of_draws
from selmix_hf.data.seeded import DrawnSamples
from selmix_hf.data.weighted import SAMPLE_WEIGHTS, WeightedSampler, sampling_weights
from selmix_hf.method.confusion import predicted_classes, require_all_classes
from selmix_hf.method.losses import BalancedSoftmaxLoss, LDAMLoss, LogitAdjustedLoss, LongTailLoss
from selmix_hf.mixing.mixup import mix_with_partners
from selmix_hf.reports.metrics import classification_metrics, counts_of, scores_of
from selmix_hf.reports.registry import lower_is_better
from selmix_hf.trainer_options import (
    OWN_METRICS,
    check_schedule,
    check_trainer_options,
    expanded,
)
from selmix_hf.training.base import PushingTrainer
from selmix_hf.training.checks import check_eval_sets, check_model, check_smoothing
from selmix_hf.training.deferred_reweighting import DeferredReweighting
from selmix_hf.training.health import blamed_on_weights, require_finite_weights
from selmix_hf.training.model_init import given_or_made
from selmix_hf.training.optimizer import check_optimizer_options
from selmix_hf.training.same_data import data_facts

logger = logging.get_logger(__name__)

LOSSES: dict[str, Callable[[Any], LongTailLoss]] = {
    "cross_entropy": lambda class_counts: LogitAdjustedLoss(class_counts, tau=0.0),
    "logit_adjusted": LogitAdjustedLoss,
    "balanced_softmax": BalancedSoftmaxLoss,
    "ldam": LDAMLoss,
    "ldam_drw": LDAMLoss,
}


_OF_CLASS_SIZES = ("logit_adjusted", "balanced_softmax")


class Stage1Trainer(PushingTrainer):
    """`transformers.Trainer` with a long-tail loss, a transform each for training and evaluation, mixup and sampling
    by class.

    Every loss works in plain Trainer too, as its `compute_loss_func`.

    Args:
        model: a classifier, also with an adapter, as a `peft.PeftModel`.
        model_init: instead of `model`, makes one for every `train`.
        args: `TrainingArguments`; `remove_unused_columns` is switched off, the transforms need the raw columns, and
            `dataloader_drop_last` holds for training alone. `label_smoothing_factor` smooths the labels of `loss`, on
            the logits as the loss adjusts them. `greater_is_better` is False where `metric_for_best_model` is a loss
            or "zero_recall_classes".
        train_dataset: labelled; its class counts make the loss.
        eval_dataset: optional, one or several by name.
        processing_class, data_collator, train_transform, eval_transform, label_column, class_order: as for
            `SelMixTrainer`.
        loss: "logit_adjusted", "balanced_softmax", "ldam", "ldam_drw" (weighted in the last fifth of the run),
            "cross_entropy", or a module called with (outputs, labels).
        mixup_alpha: mix each batch with a shuffled one, the share drawn from Beta(alpha, alpha) for every batch (Zhang
            et al. 2018, arXiv 1710.09412); 0.2 with "cross_entropy" is stage 1 of MiSLAS (Zhong et al. 2021, arXiv
            2104.00466); 0 for none.
        sampling: "natural", every sample once an epoch in Trainer's own order; or "class_balanced", "square_root", a
            power of the class size or K class weights, see `weighted.class_shares`: as many draws an epoch
            as there are samples, with replacement, rounded up to whole optimizer steps. Over all processes a step
            sees what one process with the same global batch would, and a resumed run goes on with the same samples and
            views of them.
        sample_weights: instead of `sampling`, how often each sample is drawn (N, none negative).
        on_bad_image: as that of `SelMixConfig`.
        kwargs: as for Trainer.

    Raises:
        ValueError: an unknown loss, a negative `mixup_alpha`, bad labels, a class without training samples, bad
            weights, a `train_sampling_strategy` beside them, label smoothing beside a loss of your own, or what
            `trainer_options` and `checks.check_eval_sets` refuse.
        TypeError: no TrainingArguments, or what `checks.check_model` refuses.
    """

    train_dataset: Any
    model: PreTrainedModel
    numbering: Numbering
    used_when_made = (*PushingTrainer.used_when_made, "label_smoothing_factor")

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        loss: str | nn.Module = "logit_adjusted",
        mixup_alpha: float = 0.0,
        sampling: str | ArrayLike = "natural",
        sample_weights: ArrayLike | None = None,
        train_transform: ImageTransform | None = None,
        eval_transform: ImageTransform | None = None,
        label_column: str | None = None,
        class_order: Sequence[str | int] | None = None,
        model_init: Callable[..., Any] | None = None,
        on_bad_image: str = "raise",
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            near = get_close_matches(loss, LOSSES, 1)
            hint = f", did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown loss {loss!r}: expected one of {', '.join(LOSSES)}{hint}")
        if mixup_alpha < 0:
            raise ValueError(f"mixup_alpha must not be negative, found {mixup_alpha}.")
        if train_dataset is None:
            raise ValueError("Stage1Trainer needs train_dataset: its class counts make the loss.")
        if not isinstance(args, TrainingArguments):
            raise TypeError(f"args must be TrainingArguments, found {type(args).__name__}.")
        if lower_is_better(args.metric_for_best_model or ""):
            args.greater_is_better = False  # Trainer's default knows it of a loss alone
        check_trainer_options(args, *self.own_rules, "" if compute_metrics else OWN_METRICS)
        check_smoothing(args, None if isinstance(loss, str) else "loss")
        model = given_or_made(model, model_init, args, kwargs)
        num_classes = num_classes_of(model)
        check_optimizer_options(args, model, kwargs)
        args.output_dir = expanded("output_dir", args.output_dir)
        train_dataset, sample_weights = kept_images(on_bad_image, "train_dataset", train_dataset, sample_weights)
        several = eval_dataset if isinstance(eval_dataset, Mapping) else {"eval_dataset": eval_dataset}
        kept = {name: kept_images(on_bad_image, name, one)[0] for name, one in several.items()}
        eval_dataset = kept if several is eval_dataset else kept["eval_dataset"]
        args.remove_unused_columns = False
        if args.device.type == "cpu":
            args.dataloader_pin_memory = False  # nothing to pin for, and torch would warn at every loader
        column = label_column_of(train_dataset, label_column)
        self.numbering = Numbering(model, train_dataset, column, num_classes, class_order)
        names = self.numbering.names
        numbered = self.numbering.of(train_dataset, "train_dataset")
        labels_N = read_labels(numbered, "train_dataset", column, num_classes, names)
        self.data_facts = data_facts(names, train_dataset=labels_N)
        counts_K = np.bincount(labels_N, minlength=num_classes)
        self.sample_weights = None
        if sample_weights is not None or not (isinstance(sampling, str) and sampling == "natural"):
            self.sample_weights = sampling_weights(sampling, labels_N, num_classes, sample_weights)
            self._check_sampling(
                args, loss, SAMPLE_WEIGHTS if sample_weights is not None else f"sampling={sampling!r}"
            )
        how = processing_class, data_collator
        self._eval_collator = default_collator(train_dataset, *how, eval_transform, column, model)
        self.loss = LOSSES[loss](counts_K) if isinstance(loss, str) else loss
        if isinstance(loss, str):
            cast(LongTailLoss, self.loss).label_smoothing = args.label_smoothing_factor
        self.mixup_alpha = mixup_alpha
        self._mix: tuple[float, Tensor] | None = None
        collator = default_collator(train_dataset, *how, train_transform, column, model)

        def metrics(found: Any) -> dict[str, Any]:
            counts_KK = counts_of(found, num_classes)
            require_all_classes(counts_KK.sum(1), names, advice=_leave_out(num_classes))
            return classification_metrics(counts_KK, train_counts=counts_K, class_names=names)

        self._label_column, self._own_metrics = column, None if compute_metrics else metrics
        self._seen: dict[int, Any] = {}  # sets whose labels were read, by their ids
        super().__init__(
            model,
            args,
            data_collator=collator if self.sample_weights is None else SelMixCollator(collator),
            train_dataset=numbered,
            eval_dataset=self.numbered(eval_dataset, "eval_dataset"),
            processing_class=processing_class,
            compute_loss_func=self._mixed_loss,
            compute_metrics=compute_metrics or metrics,
            **kwargs,
        )
        self.model_init = model_init
        self.check_evaluations()
        if loss == "ldam_drw":
            self.add_callback(DeferredReweighting(cast(LongTailLoss, self.loss), counts_K.tolist()))

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not self.mixup_alpha or not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        share = float(torch.distributions.Beta(self.mixup_alpha, self.mixup_alpha).sample())
        order_B = torch.randperm(len(inputs["labels"])).to(inputs["labels"].device)
        mixed = {
            name: value if name == "labels" else _mix(name, value, share, order_B) for name, value in inputs.items()
        }
        self._mix = share, order_B
        try:
            return super().compute_loss(model, mixed, *args, **kwargs)
        finally:
            self._mix = None

    def _mixed_loss(self, outputs: Any, labels_B: Tensor, num_items_in_batch: Any = None) -> Tensor:
        loss: Tensor = self.loss(outputs, labels_B, num_items_in_batch=num_items_in_batch)
        if self._mix is None:
            return loss
        share, order_B = self._mix  # cross entropy is linear in the label
        other: Tensor = self.loss(outputs, labels_B[order_B], num_items_in_batch=num_items_in_batch)
        return share * loss + (1 - share) * other

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.sample_weights is None:
            return super().get_train_dataloader()
        step = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        sampler = WeightedSampler(
            self.sample_weights,
            num_draws=math.ceil(len(self.train_dataset) / step) * step,
            get_epoch=lambda: int(self.state.epoch or 0),
            seed=seed_of_draws(self.args),
            with_seeds=True,
        )
        return self._get_dataloader(
            DrawnSamples(self.train_dataset),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=lambda dataset: sampler,
            is_training=True,
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's.

        Raises:
            FloatingPointError: weights that are not finite, before they are saved or at the end.
        """
        output = super().train(*args, **kwargs)
        require_finite_weights(self.model, self.state.global_step)
        return output

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As Trainer's; logits that are no numbers are refused (`confusion.predicted_classes`), whatever is measured
        of them."""
        what = self.model, self.state.global_step, "the evaluated set"
        blamed = blamed_on_weights(*what) if self.is_in_train else nullcontext()
        with blamed:
            output: EvalLoopOutput = super().evaluation_loop(*args, **kwargs)
            logits = scores_of(output.predictions)
            if isinstance(logits, np.ndarray) and logits.ndim == 2:
                predicted_classes(torch.from_numpy(logits), labels=output.label_ids)
        return output

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As Trainer's, once the length of the run is known."""
        check_schedule(self.args, num_training_steps, self.state.num_train_epochs)
        return super().create_scheduler(num_training_steps, optimizer)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        if not isinstance(eval_dataset, str) and not is_stream(eval_dataset):
            eval_dataset = self.numbered(eval_dataset, "eval_dataset")
            if self._seen.get(id(eval_dataset)) is not eval_dataset:
                self._read(eval_dataset, "eval_dataset")
        with self._evaluating():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        with self._evaluating():
            return super().get_test_dataloader(test_dataset)

    def check_evaluations(self, searched: bool = False) -> None:
        """Of the sets that can be read ahead of the run."""
        sets = self.eval_dataset.values() if isinstance(self.eval_dataset, Mapping) else [self.eval_dataset]
        if any(map(is_stream, sets)):
            return
        own = self._own_metrics
        measured = None if own is None else lambda labels_N: own(EvalPrediction(labels_N, labels_N))
        check_eval_sets(self.eval_dataset, self.args, self._read, self._eval_collator, measured, searched)

    def _read(self, dataset: Any, title: str, chooses: bool = False) -> NDArray[np.int64]:
        names = self.numbering.names
        labels_N = read_labels(dataset, title, self._label_column, len(names), names, all_classes=False)
        if self._own_metrics is not None:
            sizes_K = torch.from_numpy(np.bincount(labels_N, minlength=len(names)))
            require_all_classes(sizes_K, names, title, _leave_out(len(names)))
        self._seen[id(dataset)] = dataset
        return labels_N

    @staticmethod
    def _check_sampling(args: TrainingArguments, loss: str | nn.Module, given: str) -> None:
        strategy = getattr(args, "train_sampling_strategy", "random")
        if strategy != "random":
            raise ValueError(f"{given:.60} and train_sampling_strategy={strategy!r} both choose samples: give one.")
        if isinstance(loss, str) and loss in _OF_CLASS_SIZES:
            logger.warning(
                f"loss={loss!r} makes up for the sizes of the classes, and {given:.60} changes how often they are "
                "seen: together they may do it twice. Use loss='cross_entropy', or the natural sampling."
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Trainer has one collator for everything; ours augments in training alone."""
        training, self.data_collator = self.data_collator, self._eval_collator
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False  # every sample counts
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = training, drop_last


def num_classes_of(model: Any) -> int:
    """That of a classifier, without running it.

    Raises:
        TypeError: none is known.
        ValueError, TypeError: see `checks.check_model`.
    """
    found = getattr(getattr(check_model(model), "config", None), "num_labels", None)
    if not found:
        raise TypeError(
            f"Stage1Trainer reads the number of classes from model.config.num_labels, and {type(model).__name__} has "
            "none: load a model by AutoModelForImageClassification.from_pretrained(...) or its kin, or write a "
            "transformers.PreTrainedModel around yours."
        )
    return int(found)


def _leave_out(num_classes: int) -> str:
    return (
        f"add samples of these classes, or pass compute_metrics=make_compute_metrics({num_classes}, absent='leave "
        "out') to the trainer for numbers of the other classes alone"
    )


def _mix(name: str, value: Any, share: float, order_B: Tensor) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"mixup_alpha mixes inputs, which must be tensors of floats such as pixel_values; found {name} of "
            f"{getattr(value, 'dtype', type(value).__name__)}."
        )
    return mix_with_partners(value, order_B, share)

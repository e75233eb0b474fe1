"""The training that SelMix starts from, for users without a checkpoint.

Shape suffixes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments

from selmix_hf.callbacks import DeferredReweighting
from selmix_hf.checks import label_column_of, read_labels, resolve_class_names
from selmix_hf.collator import Collator, default_collator
from selmix_hf.lora import check_adapter
from selmix_hf.losses import BalancedSoftmaxLoss, LDAMLoss, LogitAdjustedLoss, LongTailLoss
from selmix_hf.metrics import make_compute_metrics
from selmix_hf.pushing_trainer import PushingTrainer

LOSSES: dict[str, Callable[[Any], LongTailLoss]] = {
    "cross_entropy": lambda class_counts: LogitAdjustedLoss(class_counts, tau=0.0),
    "logit_adjusted": LogitAdjustedLoss,
    "balanced_softmax": BalancedSoftmaxLoss,
    "ldam": LDAMLoss,
    "ldam_drw": LDAMLoss,
}


class Stage1Trainer(PushingTrainer):
    """`transformers.Trainer` with a long-tail loss, a transform each for training and evaluation, and mixup.

    Every loss works in plain Trainer too, as its `compute_loss_func`.

    Args:
        model: a classifier, also with an adapter, as a `peft.PeftModel`.
        args: `TrainingArguments`; `remove_unused_columns` is switched off, the transforms need the raw columns.
        train_dataset: labelled; its class counts make the loss.
        eval_dataset: optional.
        processing_class, data_collator, train_transform, eval_transform, label_column: as for `SelMixTrainer`.
        loss: "logit_adjusted", "balanced_softmax", "ldam", "ldam_drw" (weighted in the last fifth of the run),
            "cross_entropy", or a module called with (outputs, labels).
        mixup_alpha: mix each batch with a shuffled one, the share drawn from Beta(alpha, alpha) for every batch (Zhang
            et al. 2018, arXiv 1710.09412); 0.2 with "cross_entropy" is stage 1 of MiSLAS (Zhong et al. 2021, arXiv
            2104.00466); 0 for none.
        kwargs: as for Trainer.

    Raises:
        ValueError: an unknown loss, a negative `mixup_alpha`, bad labels, a class without training samples.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        loss: str | nn.Module = "logit_adjusted",
        mixup_alpha: float = 0.0,
        train_transform: Callable | None = None,
        eval_transform: Callable | None = None,
        label_column: str | None = None,
        compute_metrics: Callable | None = None,
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
        check_adapter(model)
        args.remove_unused_columns = False
        if args.device.type == "cpu":
            args.dataloader_pin_memory = False  # nothing to pin for, and torch would warn at every loader
        column = label_column_of(train_dataset, label_column)
        num_classes = int(model.config.num_labels or 0)
        names = resolve_class_names(model, train_dataset, column, num_classes)
        counts_K = np.bincount(
            read_labels(train_dataset, "train_dataset", column, num_classes, names), minlength=num_classes
        )
        self._eval_collator = default_collator(train_dataset, processing_class, data_collator, eval_transform, column)
        self.loss = LOSSES[loss](counts_K) if isinstance(loss, str) else loss
        self.mixup_alpha = mixup_alpha
        self._mix: tuple[float, Tensor] | None = None
        super().__init__(
            model,
            args,
            data_collator=default_collator(train_dataset, processing_class, data_collator, train_transform, column),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_loss_func=self._mixed_loss,
            compute_metrics=compute_metrics
            or make_compute_metrics(num_classes, train_counts=counts_K, class_names=names),
            **kwargs,
        )
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
        loss = self.loss(outputs, labels_B, num_items_in_batch=num_items_in_batch)
        if self._mix is None:
            return loss
        share, order_B = self._mix  # cross entropy is linear in the label
        return share * loss + (1 - share) * self.loss(
            outputs, labels_B[order_B], num_items_in_batch=num_items_in_batch
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        with self._evaluating():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        with self._evaluating():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Trainer has one collator for everything; ours augments in training alone."""
        training, self.data_collator = self.data_collator, self._eval_collator
        try:
            yield
        finally:
            self.data_collator = training


def _mix(name: str, value: Any, share: float, order_B: Tensor) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"mixup_alpha mixes inputs, which must be tensors of floats such as pixel_values; found {name} of "
            f"{getattr(value, 'dtype', type(value).__name__)}."
        )
    return share * value + (1 - share) * value[order_B]

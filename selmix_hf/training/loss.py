"""The loss of a batch of pairs, mixed before the model or in front of its head, or of single samples."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from selmix_hf.config import SelMixConfig
from selmix_hf.mixing.mixer import DRAWN, InputMixer
from selmix_hf.models.head import ClassifierHead, freeze_batch_norm, logits_of
from selmix_hf.training.health import FiniteCheck, require_finite


class MixedLoss:
    """Cross entropy with the labels of the first samples, or what the user gives instead.

    Args:
        args, head: of the run.
        mixer: mixes inputs before the model; None: features are mixed in front of the head.
    """

    def __init__(self, args: SelMixConfig, head: ClassifierHead, mixer: InputMixer | None) -> None:
        self.args, self.head, self.mixer = args, head, mixer
        self._finite = FiniteCheck(torch.zeros(()))

    def __call__(
        self, model: nn.Module, inputs: dict[str, Any], own_loss: Callable[..., Tensor] | None, return_outputs: bool
    ) -> tuple[Tensor, SequenceClassifierOutput | None]:
        """Loss and, where they are asked for, logits.

        Args:
            model: as Trainer wraps it.
            inputs: a batch, with what was drawn for its pairs in a training step.
            own_loss: Trainer's `compute_loss_func`, called with outputs, labels and num_items_in_batch=None.
            return_outputs: whether outputs are wanted.
        """
        inputs = dict(inputs)
        drawn = {name: inputs.pop(name) for name in DRAWN if name in inputs}
        coefficient, labels = drawn.get("mixing_coefficient"), inputs.pop("labels")
        training = coefficient is not None or model.training
        if training and not self.args.freeze_backbone:
            freeze_batch_norm(model)
        at_head: AbstractContextManager[object] = nullcontext()
        if coefficient is not None and self.mixer is not None:
            inputs = self.mixer(inputs, labels, drawn)
        elif coefficient is not None:
            at_head = self.head.mix(coefficient, drawn.get("mixing_index"))
        with at_head:
            logits = logits_of(model(**inputs))
        outputs = None
        if return_outputs or own_loss is not None:
            outputs = SequenceClassifierOutput(logits=logits)
        if own_loss is not None:
            loss = own_loss(outputs, labels, num_items_in_batch=None)
        else:
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.args.label_smoothing_factor)
        if training:
            self._finite = FiniteCheck(loss.detach())
        return loss, outputs

    def require_finite(self, step: int) -> None:
        """Stop where the latest training loss was not finite.

        Raises:
            FloatingPointError: see `health.require_finite`.
        """
        require_finite(self._finite, "loss", step)

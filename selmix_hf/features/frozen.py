"""Training a head alone, on stored features, while the model stays whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from selmix_hf.features.stored import FEATURES
from selmix_hf.models.head import ClassifierHead


@contextmanager
def features_as_inputs(model: nn.Module, head: ClassifierHead) -> Iterator[None]:
    """Inside, `model(pooled_features=...)` runs the head alone, with the dropout that the model has in front of it.

    The model stays one object, whatever wraps it, and raw inputs still take the usual way.
    """
    raw_forward = model.forward
    had_own = "forward" in vars(model)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if FEATURES not in kwargs:
            return raw_forward(*args, **kwargs)
        features_ND = kwargs[FEATURES]
        if head.input_dropout:
            features_ND = nn.functional.dropout(features_ND, head.input_dropout, model.training)
        return {"logits": head.mixed_logits(features_ND)}

    model.forward = forward
    try:
        yield
    finally:
        if had_own:
            model.forward = raw_forward
        else:
            del model.forward


@contextmanager
def head_alone(model: nn.Module, head: ClassifierHead) -> Iterator[None]:
    """As `features_as_inputs`; inside, only the head's parameters require a gradient, after it all are as before."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    try:
        with features_as_inputs(model, head):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

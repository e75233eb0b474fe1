"""A model as training needs it: not compiled, its weights float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

_HALF = (torch.float16, torch.bfloat16)


def half_precision(model: nn.Module) -> str | None:
    """Such as "bfloat16", where some weights are of half precision; else None."""
    found = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters() if weight.dtype in _HALF}
    return " and ".join(sorted(found)) or None


def as_trained(model: Any) -> Any:
    """The model without `torch.compile`, whose names no checkpoint could be read back by, and with float32 weights, as
    most updates of half precision round to nothing; the log says what was done.

    Args:
        model: changed in place; what is no module is returned as it is.

    Raises:
        ValueError: half-precision weights that are trained in a model that is quantised, which cannot be converted.
    """
    if not isinstance(model, nn.Module):
        return model
    model, num_compiled = _uncompiled(model)
    if num_compiled:
        logger.warning("the compiled model is trained as it was before torch.compile: set torch_compile=True instead.")
    half = half_precision(model)
    if half is None:
        return model
    if getattr(model, "is_quantized", False):
        if any(weight.requires_grad and weight.dtype in _HALF for weight in model.parameters()):
            raise ValueError(
                f"the trained weights of a quantised model are {half}, in which most updates round to nothing: call "
                "peft.prepare_model_for_kbit_training(model) before get_peft_model."
            )
        return model
    logger.warning(
        f"the weights of the model are {half}, in which most updates round to nothing: it is trained in float32. "
        "bf16=True or fp16=True compute in half precision all the same."
    )
    return model.float()


def _uncompiled(model: nn.Module) -> tuple[nn.Module, int]:
    """Without the wrappers of torch.compile around it and its parts, and how many there were."""
    count = 0
    while (inner := dict(model.named_children()).get("_orig_mod")) is not None:
        model, count = inner, count + 1
    if vars(model).pop("_compiled_call_impl", None) is not None:  # of model.compile()
        count += 1
    for name, child in list(model.named_children()):
        own, more = _uncompiled(child)
        if more:
            setattr(model, name, own)
        count += more
    return model, count

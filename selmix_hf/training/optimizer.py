"""What the optimizer trains: the head first, the backbone at a rate of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from selmix_hf.models.head import ClassifierHead, HeadError


def parameter_groups(
    model: nn.Module,
    head: ClassifierHead,
    decaying: set[str],
    learning_rate: float,
    backbone_learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the head's first, each of head and backbone with and without weight decay.

    Args:
        decaying: names of the parameters that decay. Parameters that need no gradient are left out.
    """
    in_head = {id(parameter) for parameter in head.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) not in in_head, name not in decaying), []).append(parameter)
    if not groups:
        raise HeadError(
            f"{describe(model)}: no weight requires a gradient, so there is nothing to train. Call "
            "model.requires_grad_(True), or set freeze_backbone=True to train the head alone."
        )
    return [
        {
            "params": groups[of_backbone, exempt],
            "lr": backbone_learning_rate if of_backbone else learning_rate,
            "weight_decay": 0.0 if exempt else weight_decay,
        }
        for of_backbone, exempt in sorted(groups)
    ]


def describe(model: nn.Module) -> str:
    """The model's class, and the timm architecture if there is one."""
    inner = getattr(model, "timm_model", model)
    timm_config = getattr(inner, "pretrained_cfg", None) or {}
    architecture = timm_config.get("architecture") if isinstance(timm_config, Mapping) else None
    architecture = architecture or getattr(getattr(model, "config", None), "architecture", None)
    return type(model).__name__ + (f" ({architecture})" if architecture else "")

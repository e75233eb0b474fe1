"""What the optimizer trains: the head first, the backbone at a rate of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from selmix_hf.models.head import ClassifierHead, HeadError, describe


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

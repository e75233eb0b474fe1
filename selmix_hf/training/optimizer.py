"""What the optimizer trains: the head first, the backbone at a rate of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from selmix_hf.models.head import ClassifierHead, HeadError, describe


def make_optimizer(trainer: Trainer, model: Any, head: ClassifierHead) -> torch.optim.Optimizer:
    """The optimizer that a trainer's arguments ask for.

    Args:
        trainer: its `args` have a `backbone_learning_rate` beside the head's `learning_rate`.
        model: whose weights are trained.
        head: of the model.

    Raises:
        ValueError: an optimizer that makes its own parameter groups.
    """
    args: Any = trainer.args
    cls, options = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(args, model)
    check_optimizer(cls, options, args.optim)
    decaying = set(trainer.get_decay_parameter_names(model))
    rates = args.learning_rate, args.backbone_learning_rate
    made: torch.optim.Optimizer = cls(parameter_groups(model, head, decaying, *rates, args.weight_decay), **options)
    return made


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


def check_optimizer(cls: Any, options: Mapping[str, Any], name: str) -> None:
    """Refuse an optimizer that takes no parameter groups from outside."""
    if not isinstance(cls, type) or {"params", "model", "optimizer_dict"} & options.keys():
        raise ValueError(f"optim={name!r} makes its own parameter groups: use 'sgd' or 'adamw_torch'.")

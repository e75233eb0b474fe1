"""What the optimizer trains: the head first, the backbone at a rate of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

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
    rates = float(args.learning_rate), float(args.backbone_learning_rate)  # plain ones: checkpoints have them
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


def check_optimizer_options(args: Any, model: Any, given: Mapping[str, Any]) -> None:
    """Refuse options that the optimizer of `args.optim` does not take, which Trainer passes over.

    Args:
        given: more arguments of Trainer's, by name; nothing is checked where an optimizer is among them.

    Raises:
        ValueError: one of `optim_args` or of Adam's own options changes nothing.
    """

    def made(**changes: Any) -> Any:
        own = copy.copy(args)
        for name, value in changes.items():
            setattr(own, name, value)
        return Trainer.get_optimizer_cls_and_kwargs(own, model)

    if given.get("optimizer_cls_and_kwargs") or any(part is not None for part in given.get("optimizers") or ()):
        return
    parts = [part for part in (args.optim_args or "").replace(" ", "").split(",") if part]
    if wrong := [part for part in parts if part.count("=") != 1]:
        raise ValueError(f"optim_args must be 'name=value,name=value', found {wrong[0]!r} in {args.optim_args!r}.")
    try:
        whole = made()
    except (ImportError, RuntimeError):  # a package is missing: Trainer says so when it makes the optimizer
        return
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        default = TrainingArguments.__dataclass_fields__[name].default
        if getattr(args, name) != default and made(**{name: default}) == whole:
            raise ValueError(
                f"{name}={getattr(args, name)} has no effect with optim={args.optim.value!r}: leave it out."
            )
    for part in parts:
        rest = ",".join(other for other in parts if other != part)
        if part.startswith("weight_decay=") or made(optim_args=rest) == whole:
            raise ValueError(
                f"optim_args has {part!r}, which has no effect with optim={args.optim.value!r}: leave it out. 'sgd' "
                "takes momentum, dampening and nesterov; weight_decay is an option of its own."
            )


def check_optimizer(cls: Any, options: Mapping[str, Any], name: str) -> None:
    """Refuse an optimizer that takes no parameter groups from outside."""
    if not isinstance(cls, type) or {"params", "model", "optimizer_dict"} & options.keys():
        raise ValueError(f"optim={name!r} makes its own parameter groups: use 'sgd' or 'adamw_torch'.")

"""A run that goes on although its checkpoint lacks states, or was made with other options: it ends at other weights
than the unbroken one, which is said, kept in its checkpoints and on its card."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from selmix_hf.training.resuming import missing_state
from selmix_hf.training.same_options import changes_of, draws_by_step, elsewhere_of, has_dropout, read_options

_SHOWN = 4
_FOLLOWING = ("reduce_lr_on_plateau", "greedy")  # schedules that cannot be brought to a step


def compare_options(trainer: Any, checkpoint: str, facts: dict[str, Any], inexact: bool) -> list[str]:
    """Look at what a run would go on with otherwise than it began.

    Args:
        trainer: that goes on.
        checkpoint: the folder; one of an older version has no options, and none are compared.
        facts: `same_options.facts_of` the trainer.
        inexact: whether it may all the same.

    Returns:
        why the run is inexact, a phrase for each reason.

    Raises:
        ValueError: options are others; both values are in it.
    """
    before, _ = read_options(checkpoint)
    found = changes_of(before, facts, elsewhere_of(trainer))
    begin = f"{checkpoint} was made with other options than this run has"
    if found.never:
        raise ValueError(
            f"{begin}: {_listed(found.never + found.refused)}. Set them as they were, or start anew from its weights."
        )
    if found.refused and not inexact:
        raise ValueError(
            f"{begin}: {_listed(found.refused)}. A run goes on with the options that it began with: set them as they "
            "were, or start anew from its weights. train(resume_from_checkpoint=..., inexact=True) goes on with those "
            "of now, to other weights than the unbroken run's."
        )
    reasons = [f"{name} is missing" for name in missing_state(checkpoint)] + found.refused
    if found.sizes:
        exact = draws_by_step(trainer) and not has_dropout(facts)
        drawn = "the same samples a step, and the same weights up to rounding"
        text = f"samples, accumulation and processes of a step: {found.sizes[0].removeprefix('step=')}"
        (found.said if exact else reasons).append(f"{text} ({drawn})" if exact else text)
    if found.said:
        trainer.say(f"The run goes on from {Path(checkpoint).name} with {_listed(found.said)}.")
    return reasons


def inexact_sentence(checkpoint: str, reasons: list[str]) -> str:
    """What is said of such a run, also by its card."""
    return (
        f"The run went on from {Path(checkpoint).name} inexactly and ends at other weights than the unbroken run "
        f"would: {_listed(reasons)}."
    )


def load_what_is_there(trainer: Any, checkpoint: str) -> None:
    """The optimizer's momentum, where there is one for these weights; its options are those of this run, and so is the
    schedule, brought to the step of the checkpoint."""
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    follows = trainer.args.lr_scheduler_type in _FOLLOWING
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    path = Path(checkpoint) / OPTIMIZER_NAME
    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["param_groups"]
        sizes = [[len(group["params"]) for group in groups] for groups in (saved, optimizer.param_groups)]
        if sizes[0] == sizes[1] and all(group.keys() <= other.keys() for group, other in zip(own, saved, strict=True)):
            optimizer.load_state_dict(state)
            for group, options in zip(optimizer.param_groups, own, strict=True):
                group.update({name: value for name, value in options.items() if name != "lr" or not follows})
    schedule = Path(checkpoint) / SCHEDULER_NAME
    if follows:
        if schedule.is_file():
            scheduler.load_state_dict(torch.load(schedule, weights_only=True))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a schedule that goes ahead of its optimizer
        for _ in range(trainer.state.global_step):
            scheduler.step()


def require_same_optimizer(trainer: Any, checkpoint: str | os.PathLike[str]) -> None:
    """Refuse the loaded state of another optimizer, which would fail in the first step.

    Raises:
        ValueError: the groups lack options that this optimizer has.
    """
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate's wrapper
    for group in optimizer.param_groups:
        if lacking := sorted(optimizer.defaults.keys() - group.keys()):
            raise ValueError(
                f"{os.path.join(checkpoint, OPTIMIZER_NAME)} is the state of another optimizer than this run's "
                f"{type(optimizer).__name__}: it has no {', no '.join(lacking)}. Set optim as it was, or start anew "
                "from the checkpoint's weights."
            )


def _listed(phrases: list[str]) -> str:
    more = f" and {len(phrases) - _SHOWN} more" if phrases[_SHOWN:] else ""
    return "; ".join(phrases[:_SHOWN]) + more

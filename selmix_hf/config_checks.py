"""What the values of `SelMixConfig` may be, alone and together."""

from __future__ import annotations

import math
import os
from numbers import Integral, Real
from typing import Any

from transformers.utils import logging

from selmix_hf.method.pair_distribution import check_policy
from selmix_hf.mixing.registry import MIXING

logger = logging.get_logger(__name__)

WEAKEST_BETA_MIN = 0.4  # below, results fell where classes have dozens of images: docs/analysis.md
GAIN_SET_USES = ("steer", "refit", "train")
CONFUSIONS, HEAD_STARTS = ("soft", "hard"), ("best", "as_is")
_UNTOUCHED_EPOCHS = 3.0
_NOT_NEGATIVE = ("learning_rate", "backbone_learning_rate", "min_rate", "constraint_rate", "constraint_tolerance")
_PSEUDO_LABELS = ("pseudo_label_threshold", "pseudo_label_share", "ema_decay")
_NUMBERS = (
    *_NOT_NEGATIVE,
    *_PSEUDO_LABELS,
    "tail_share",
    "worst_share",
    "target_share",
    "beta_min",
    "min_memory",
    "confusion_temperature",
)
_BATCHES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_WORKED_OUT = ("max_steps", "refresh_steps", "pseudo_label_steps")
_COUNTS = ("feature_views", *_WORKED_OUT, *_BATCHES)
_SWITCHES = ("freeze_backbone", "reuse_samples")


def check_kinds(args: Any) -> None:
    """Raise ValueError where a number, count or switch is none; numpy's scalars become Python's."""
    for name in (*_NUMBERS, *_COUNTS, *_SWITCHES):
        value = getattr(args, name)
        if name == "backbone_learning_rate" and value is None:
            continue
        if name in _SWITCHES:
            right, kind = isinstance(value, bool), "True or False"
        elif name in _COUNTS:
            right, kind = isinstance(value, Integral), "a whole number"
        else:
            right, kind = isinstance(value, Real) and math.isfinite(value), "a finite number"
        if not right or (name not in _SWITCHES and isinstance(value, bool)):
            raise ValueError(f"{name} must be {kind}, found {value!r}.")
        if hasattr(value, "item"):  # numpy's scalars would not go into JSON
            setattr(args, name, value.item())


def check_values(args: Any) -> None:
    """Raise ValueError on a value, or two together, that cannot work."""
    for name, variable in (("fsdp", "ACCELERATE_USE_FSDP"), ("deepspeed", "ACCELERATE_USE_DEEPSPEED")):
        if getattr(args, name, None) or os.environ.get(variable, "false").lower() in ("true", "1"):
            raise ValueError(
                f"{name} is not supported: the gain needs the head's whole weights, and the statistics pass lets "
                "processes look at different numbers of samples, both of which sharded weights do not allow. Use "
                "plain distributed training; a frozen backbone or bf16 saves memory."
            )
    if not isinstance(args.objective, str):
        raise ValueError(
            f"objective must be a name in the options, found {args.objective!r}: give it to "
            "SelMixTrainer(objective=...)."
        )
    if args.constraints is not None and not isinstance(args.constraints, dict):
        raise ValueError(f"constraints must map names to levels, found {args.constraints!r}.")
    if not isinstance(args.inverse_temperature, str | Real):
        raise ValueError(f"inverse_temperature must be 'auto' or a number >= 0, found {args.inverse_temperature!r}.")
    for name in _NOT_NEGATIVE:
        if not getattr(args, name) >= 0:
            raise ValueError(f"{name} must not be negative, found {getattr(args, name)}.")
    if not 0 < args.tail_share < 1:
        raise ValueError(f"tail_share must lie between 0 and 1, found {args.tail_share}.")
    args.make_objective(class_counts=[1, 1])
    check_policy(args.pair_sampling, args.temperature, args.target_share or 1.0)
    if not isinstance(args.mixing, str) or args.mixing not in MIXING:
        raise ValueError(
            f"mixing must be one of {', '.join(MIXING)}, found {args.mixing!r}: a function of your own goes to "
            "SelMixTrainer(mixing=...)."
        )
    if args.gain_set_use not in GAIN_SET_USES:
        raise ValueError(f"gain_set_use must be one of {', '.join(GAIN_SET_USES)}, found {args.gain_set_use!r}.")
    if args.freeze_backbone and not MIXING[args.mixing].on_features:
        raise ValueError(
            f"mixing={args.mixing!r} makes new images, but freeze_backbone=True trains on stored features of "
            "unmixed ones. To train the head alone through mixed images, leave freeze_backbone False and call "
            "requires_grad_(False) on the backbone."
        )
    if args.sampling is not None:
        args.refuse_pair_options(f"sampling={args.sampling!r:.60}")
    if not 0 <= args.beta_min <= 1:
        raise ValueError(f"beta_min must lie in [0, 1], found {args.beta_min}: it is the least share of x1 in a mix.")
    if args.beta_min < WEAKEST_BETA_MIN:
        logger.warning_once(
            f"beta_min={args.beta_min} mixes strongly: the label of x1 then often goes with a mix that is mostly "
            f"x2. Below {WEAKEST_BETA_MIN} this cost mean recall where the rarest class had dozens of images, and "
            "helped where it had one: compare with the default on validation (docs/analysis.md)."
        )
    for name, known in (("confusion", CONFUSIONS), ("head_start", HEAD_STARTS)):
        if getattr(args, name) not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, found {getattr(args, name)!r}.")
    if not args.confusion_temperature > 0:
        raise ValueError(
            f"confusion_temperature must be positive, found {args.confusion_temperature}: for the limit 0 set "
            "confusion='hard'."
        )
    for name in _COUNTS:
        if getattr(args, name) < (least := int(name not in _WORKED_OUT)):
            raise ValueError(f"{name} must be at least {least}, found {getattr(args, name)}.")
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError(
            "dataloader_persistent_workers keeps processes that load images, but dataloader_num_workers is 0: set "
            "it to 1 or more, or leave dataloader_persistent_workers out."
        )
    for name in ("seed", "data_seed"):
        if not 0 <= (getattr(args, name) or 0) < 2**32:
            raise ValueError(f"{name} must lie between 0 and 2**32 - 1, found {getattr(args, name)}.")
    if args.pseudo_label_source not in ("model", "ema", "oracle"):
        raise ValueError(
            f"pseudo_label_source must be 'model', 'ema' or 'oracle', found {args.pseudo_label_source!r}: a "
            "teacher of your own goes to SelMixTrainer(teacher=...)."
        )
    if not 0 <= args.pseudo_label_threshold < 1:
        raise ValueError(f"pseudo_label_threshold must lie in [0, 1), found {args.pseudo_label_threshold}.")
    if not 0 < args.pseudo_label_share <= 1:
        raise ValueError(f"pseudo_label_share must lie in (0, 1], found {args.pseudo_label_share}.")
    if args.pseudo_label_source == "oracle" and (args.pseudo_label_threshold > 0 or args.pseudo_label_share < 1):
        raise ValueError("pseudo_label_source='oracle' uses every label: leave threshold and share as they are.")
    if not 0 <= args.ema_decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1), found {args.ema_decay}.")
    if args.feature_dtype not in ("float32", "float16"):
        raise ValueError(f"feature_dtype must be 'float32' or 'float16', found {args.feature_dtype!r}.")
    if args.reuse_samples and args.freeze_backbone:
        raise ValueError("reuse_samples saves work of the backbone; with freeze_backbone=True there is none.")
    if args.feature_views > 1 and not args.freeze_backbone:
        raise ValueError("feature_views stores views for freeze_backbone=True; without it every step draws new ones.")
    if args.feature_cache_dir is not None and not args.freeze_backbone:
        raise ValueError(
            "feature_cache_dir keeps the features of freeze_backbone=True; without it none are stored. Set "
            "freeze_backbone=True, or leave feature_cache_dir out."
        )
    if args.num_train_epochs != _UNTOUCHED_EPOCHS:
        raise ValueError(
            f"num_train_epochs={args.num_train_epochs} would count SelMix periods of refresh_steps steps, not "
            "passes over the data: set max_steps instead."
        )
    if args.remove_unused_columns:
        raise ValueError("remove_unused_columns must stay False: the raw columns are needed to make pairs.")
    if args.auto_find_batch_size:
        raise ValueError("auto_find_batch_size would change the length of a period: set the batch size.")


def check_evaluations(args: Any, max_steps: int | None) -> None:
    """Refuse options by which no evaluation of a run, its start and perhaps its last step aside, could be chosen.

    Args:
        args: of the run, as TrainingArguments leaves them.
        max_steps: of the run; nothing is checked while it is not known (None or 0).

    Raises:
        ValueError: `load_best_model_at_end` with `eval_steps`, `save_steps` or `eval_delay` beyond the run.
    """
    if not max_steps or not args.load_best_model_at_end or args.eval_strategy == "no":
        return
    why = "beyond the run, which leaves load_best_model_at_end=True nothing to choose from."
    for kind in ("eval", "save"):
        steps = getattr(args, f"{kind}_steps")  # below 1 it is a share of the run
        if getattr(args, f"{kind}_strategy") == "steps" and steps > max_steps:
            unset = " (that of logging_steps, where it is not set)" * (kind == "eval")
            raise ValueError(
                f"{kind}_steps must be at most max_steps={max_steps}, found {steps}{unset}: {why} Set {kind}_steps to "
                f"{max_steps} or less, or {kind}_strategy to {'epoch' if kind == 'eval' else 'best'!r}."
            )
    by_step = args.eval_strategy == "steps"
    if not by_step and not args.refresh_steps:  # the length of a period is not known yet
        return
    end = max_steps if by_step else max_steps / args.refresh_steps
    if args.eval_delay > end:
        unit = "steps" if by_step else f"periods of refresh_steps={args.refresh_steps} steps"
        raise ValueError(
            f"eval_delay counts {unit} with eval_strategy={'steps' if by_step else 'epoch'!r} and must be at most "
            f"{end:g}, where max_steps={max_steps} ends; found {args.eval_delay:g}: {why}"
        )

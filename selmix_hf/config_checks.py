"""What the options of `SelMixConfig` may be together, and Trainer's beside them; alone: `options`."""

from __future__ import annotations

import json
import os
from numbers import Real
from typing import Any

from transformers.utils import logging

from selmix_hf.method.pair_distribution import check_policy
from selmix_hf.mixing.registry import MIXING
from selmix_hf.options import Option, WorkedOut, refuse_pair_options

logger = logging.get_logger(__name__)

_BACKBONE_RATE = 1e-4  # beside a rate of the head that is worked out
WEAKEST_BETA_MIN = 0.4  # below, results fell where classes have dozens of images: docs/analysis.md
_UNTOUCHED_EPOCHS = 3.0
_BATCHES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_BATCH = Option(kind="count", default=1, at_least=1)


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
    args.make_objective(class_counts=[1, 1])
    check_policy(args.pair_sampling, args.temperature, args.target_share or 1.0)
    if args.freeze_backbone and not MIXING[args.mixing].on_features:
        raise ValueError(
            f"mixing={args.mixing!r} makes new images, but freeze_backbone=True trains on stored features of "
            "unmixed ones. To train the head alone through mixed images, leave freeze_backbone False and call "
            "requires_grad_(False) on the backbone."
        )
    if args.sampling is not None:
        refuse_pair_options(args, f"sampling={args.sampling!r:.60}")
    if args.beta_min < WEAKEST_BETA_MIN:
        logger.warning_once(
            f"beta_min={args.beta_min} mixes strongly: the label of x1 then often goes with a mix that is mostly "
            f"x2. Below {WEAKEST_BETA_MIN} this cost mean recall where the rarest class had dozens of images, and "
            "helped where it had one: compare with the default on validation (docs/analysis.md)."
        )
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError(
            "dataloader_persistent_workers keeps processes that load images, but dataloader_num_workers is 0: set "
            "it to 1 or more, or leave dataloader_persistent_workers out."
        )
    for name in _BATCHES:
        setattr(args, name, _BATCH.checked(name, getattr(args, name)))
    for name in ("seed", "data_seed"):
        if not 0 <= (getattr(args, name) or 0) < 2**32:
            raise ValueError(f"{name} must lie between 0 and 2**32 - 1, found {getattr(args, name)}.")
    if args.pseudo_label_source == "oracle" and (args.pseudo_label_threshold > 0 or args.pseudo_label_share < 1):
        raise ValueError("pseudo_label_source='oracle' uses every label: leave threshold and share as they are.")
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


def work_out_backbone_rate(args: Any) -> None:
    """Where it was not given."""
    if args.backbone_learning_rate is None:
        args.backbone_learning_rate = WorkedOut(args.learning_rate / 30 if args.learning_rate else _BACKBONE_RATE)


def plain_numbers(options: dict[str, Any]) -> dict[str, Any]:
    """Options by name, without a mark at those that were worked out: Trainer asks for their exact type."""
    return {name: float(value) if isinstance(value, WorkedOut) else value for name, value in options.items()}


def check_evaluations(args: Any, max_steps: int | None) -> None:
    """Refuse steps by which no evaluation of a run, its start and perhaps its last step aside, could be chosen.

    Args:
        args: of the run, as TrainingArguments leaves them.
        max_steps: of the run; nothing is checked while it is not known (None or 0).

    Raises:
        ValueError: `load_best_model_at_end` with `eval_steps` or `save_steps` beyond the run.
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


def say_if_looked_at_once(args: Any) -> None:
    """Warn of a period that was given longer than the run."""
    if args.max_steps and (args.refresh_steps or 0) > args.max_steps:
        logger.warning_once(
            f"refresh_steps={args.refresh_steps} is beyond max_steps={args.max_steps}: the gain set is looked at "
            "once, when the run begins."
        )


def check_processes(args: Any) -> None:
    """Raise ValueError on ways to share work that pairs do not allow; `args` as TrainingArguments leaves them."""
    if args.accelerator_config.split_batches:  # by now no longer a dictionary or the name of a file
        raise ValueError("split_batches would make a period too long: set per_device_train_batch_size instead.")
    if args.accelerator_config.dispatch_batches:
        raise ValueError(
            "dispatch_batches would cut inputs and labels of a batch at the same length, though a batch of pairs "
            "has two samples a label: leave it out, every process draws its own pairs."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"found {args.n_gpu} GPUs in one process, which Trainer would drive by DataParallel; start one "
            "process a GPU with `accelerate launch`, or show one GPU with CUDA_VISIBLE_DEVICES."
        )


def parse_prior(text: str) -> list[float]:
    """Weights of the classes (K) from JSON."""
    try:
        return [float(weight) for weight in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"class_prior must be JSON such as '[0.5, 0.3, 0.2]', found {text!r}.") from error


def parse_constraints(text: str) -> dict[str, float]:
    """Levels by name from JSON."""
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"constraints must be JSON such as '{{\"coverage\": 0.95}}', found {text!r}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"constraints must map names to levels, found {text!r}.")
    return parsed

"""Options that are set in the arguments of a trainer after it was made: used in its next run, or refused."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from transformers.training_args import OptimizerNames

from selmix_hf.config import SelMixConfig
from selmix_hf.config_checks import check_values
from selmix_hf.options import check_options
from selmix_hf.trainer_options import check_trainer_options
from selmix_hf.training.optimizer import check_optimizer_options

USED_WHEN_MADE = (  # by every trainer
    *("seed", "data_seed", "full_determinism", "per_device_train_batch_size", "bf16", "fp16", "tf32", "use_cpu"),
    *("remove_unused_columns", "label_names", "neftune_noise_alpha", "report_to", "torch_compile", "use_cache"),
    *("accelerator_config", "skip_memory_metrics"),
)
USED_BY_PARTS = (  # of a `SelMixTrainer`, beside those
    *("learning_rate", "reuse_samples", "mixing", "sampling", "feature_dtype", "feature_cache_dir", "confusion"),
    *("objective", "constraints", "class_prior", "tail_share", "worst_share", "constraint_tolerance"),
    *("gain_set_use", "on_bad_image", "min_rate", "min_memory", "constraint_update", "constraint_rate"),
)


def options_now(trainer: Any) -> dict[str, Any]:
    """All of a trainer, by name."""
    return {one.name: getattr(trainer.args, one.name) for one in dataclasses.fields(trainer.args)}


def require_usable(trainer: Any, known: dict[str, Any]) -> None:
    """Look at the options that are others than those known.

    Args:
        trainer: its `used_when_made` names those that another value would not reach.
        known: earlier `options_now`.

    Raises:
        ValueError: one of these, or values that arguments cannot be made with.
    """
    changed = {name: value for name, value in options_now(trainer).items() if value != known[name]}
    for name, value in changed.items():
        if name in trainer.used_when_made:
            raise ValueError(
                f"{name} was set to {value!r} after the trainer was made, which has used {known[name]!r}: make a new "
                f"trainer, with args=dataclasses.replace(args, {name}={value!r})."
            )
    if changed:
        now = copy.copy(trainer.args)  # a new configuration would take the devices of this trainer from it
        now.optim = OptimizerNames(now.optim)
        if isinstance(now, SelMixConfig):
            check_options(now)
            check_values(now)
            now.work_out(len(trainer.train_counts))
        check_trainer_options(now, *trainer.own_rules)
        check_optimizer_options(now, trainer.model, trainer.made_with[1])

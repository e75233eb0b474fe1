"""What records are made of: settings, versions, what a run tells of itself; no names of folders or machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import accelerate
import datasets
import numpy as np
import timm
import torch
import transformers
from torch import Tensor

from selmix_hf import __version__
from selmix_hf.config import SelMixConfig
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.provenance import own_command

MATRIX_CLASSES = 40  # beyond, matrices would make the file large
_HISTORY = ("step", "gain_set_psi", "gain_set_mean_recall", "gain_set_worst_recall", "effective_pairs")
_NOT_SETTINGS = {"logging_dir", "run_name", "hub_token", "output_dir", "accelerator_config", "report_to"}


def without_folders(value: Any) -> Any:
    """The last component of what is a path on this machine; anything else as it is."""
    if isinstance(value, str) and value and (Path(value).is_absolute() or Path(value).exists()):
        return Path(value).name or value
    return value


def settings_of(config: SelMixConfig, recipe: Any) -> dict[str, Any]:
    """The recipe's options, SelMix's own, and those of TrainingArguments that were set."""
    default = {f.name: f.default for f in fields(config)}  # a new config would reset accelerate's state
    default |= {f.name: f.default_factory() for f in fields(config) if f.default_factory is not MISSING}
    own = SelMixConfig.__annotations__
    values = {
        name: value
        for name, value in config.to_dict().items()
        if name in own or (name in default and value != default[name])
    }
    return {
        name: without_folders(value) for name, value in (vars(recipe) | values).items() if name not in _NOT_SETTINGS
    }


def command_of(script: str, options: Sequence[str]) -> str:
    """The command, fit to be published."""
    words = []
    for word in options:
        name, equals, value = word.partition("=")
        words.append(f"{name}={without_folders(value)}" if equals and name[:2] == "--" else str(without_folders(word)))
    return str(own_command([script, *words]))


def provenance(script: str, options: Sequence[str], recipe: Any, config: SelMixConfig, dataset: str) -> dict[str, Any]:
    """Where the numbers of a study come from: data, base model, command, machine, versions, settings, seeds.

    Args:
        script: its file name.
        options: of the command line.
        recipe: the recipe's own options, with model_name_or_path and seeds.
        config: of the runs.
        dataset: its name.
    """
    return {
        "dataset": dataset,
        "base_model": without_folders(recipe.model_name_or_path),
        "command": command_of(script, options),
        "hardware": hardware(config.world_size, config.device.type == "cpu"),
        "versions": versions(),
        "settings": settings_of(config, recipe),
        "seeds": recipe.seeds or [config.seed],
    }


def versions() -> dict[str, str]:
    """Of this package and of those that numbers may depend on."""
    modules = (transformers, accelerate, datasets, timm, torch)
    return {"selmix_hf": __version__} | {module.__name__: module.__version__ for module in modules}


def run_report(trainer: Any) -> dict[str, Any]:
    """What a finished run tells of itself, as `results.RunResults` has it: looks at the validation samples, history,
    and G and P where K is small."""
    looks = {log["step"]: log for log in trainer.state.log_history if "eval_min_recall" in log}
    kept = trainer.state.best_global_step if trainer.args.load_best_model_at_end else trainer.state.global_step
    report: dict[str, Any] = {
        "kept_step": kept,
        "validation_before": looks.get(0),
        "validation_after": looks.get(kept),
        "history": [
            {name: log[name] for name in _HISTORY if name in log}
            for log in trainer.state.log_history
            if "gain_set_psi" in log
        ],
    }
    if trainer.unlabeled_dataset is not None:
        report["pseudo_labels"] = [
            {name: value for name, value in log.items() if name == "step" or name.startswith("pseudo_label")}
            for log in trainer.state.log_history
            if "pseudo_labels_used" in log
        ]
    if len(trainer.class_names) <= MATRIX_CLASSES and trainer.gain is not None:  # None if resumed in the last period
        report["gain"] = _four_digits(trainer.gain)
        report["pair_probability"] = _four_digits(torch.as_tensor(trainer.pair_state.probability))
    return report


def _four_digits(matrix: Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in matrix.double().tolist()]


def rounded(value: Any, name: str = "") -> Any:
    """Plain JSON, floats with six digits behind the point; matrices keep the digits that they have."""
    if isinstance(value, dict):
        return {str(key): rounded(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, name) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if name in ("gain", "pair_probability") else round(float(value), 6)
    return value.item() if isinstance(value, np.generic) else value

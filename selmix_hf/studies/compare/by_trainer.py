"""Methods that `SelMixTrainer` runs.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from selmix_hf.config import SelMixConfig
from selmix_hf.method.confusion import predicted_classes
from selmix_hf.method.objectives import Objective
from selmix_hf.studies.compare.base import Method, Predictor, Setting
from selmix_hf.studies.compare.fits_on_disk import FOLDER
from selmix_hf.studies.one_start import OneStart
from selmix_hf.training.class_bias import class_bias_of
from selmix_hf.training.cross_fit import average_heads, halves_of

_UNFINISHED = f"{FOLDER}/unfinished"  # while a run of all weights is under way
_BEST_KEPT = {
    "eval_strategy": "epoch",
    "save_strategy": "best",
    "load_best_model_at_end": True,
    "save_total_limit": 1,
    "save_only_model": True,
}
# start, options of the run, validation rows -> the options, and further arguments of SelMixTrainer
Prepare = Callable[[OneStart, dict[str, Any], np.ndarray], tuple[dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True)
class ByTrainer(Method):
    """A method that runs on stored features or with all weights, as the run's settings say; the best weights of the
    latter are kept.

    A setting holds options of SelMixConfig; a factor of the run's own learning rates ("scale"); "cross", two runs of
    half the length as `cross_fit.cross_fit` has them; "bias_share", the share that is added of a class bias, tuned
    on the validation samples after training ("cross": scored by the head that they steered); and what `prepare` takes
    out of it.

    Attributes:
        tried: the settings, the most usual one first, or a function that gives them for an objective and whether the
            backbone is frozen. Where they say nothing about `gain_set_use`, the run's own holds.
        options: of SelMixConfig, in the place of the run's own.
        prepare: works the options over, and says what else the trainer is given.
    """

    tried: Sequence[Setting] | Callable[[Objective, bool], Sequence[Setting]]
    options: Mapping[str, Any] = field(default_factory=dict)
    prepare: Prepare | None = None
    _: KW_ONLY
    reads_objective: bool = True
    reads_validation: bool = True
    on_features = False

    def in_run(self, config: SelMixConfig) -> Method:
        """All weights are chosen by the objective on validation samples, whatever the method does with them."""
        whole, trains = not config.freeze_backbone, config.gain_set_use != "steer"
        return replace(
            self,
            reads_objective=self.reads_objective or whole,
            reads_validation=self.reads_validation or whole or trains,
        )

    def settings(self, objective: Objective, config: SelMixConfig) -> Sequence[Setting]:
        """Where the run's `gain_set_use` is not the default, the setting that has it already steers alone instead."""
        tried = self.tried(objective, config.freeze_backbone) if callable(self.tried) else self.tried
        own = {"gain_set_use": config.gain_set_use}
        if config.gain_set_use == "steer":
            return tried
        steers: Setting = {"gain_set_use": "steer"}
        return [
            steers if setting == own else setting if "cross" in setting else {**own, **setting} for setting in tried
        ]

    def fit(self, start: OneStart, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        options = {"gain_set_use": "steer", **self.options, **setting, "objective": objective, "seed": seed}
        if not start.config.freeze_backbone:
            options |= {**_BEST_KEPT, "output_dir": f"{start.config.output_dir}/{_UNFINISHED}"}
        scale, share = options.pop("scale", 1.0), options.pop("bias_share", 0.0)
        if scale != 1:
            options["learning_rate"] = scale * start.learning_rate()
            options["backbone_learning_rate"] = scale * float(start.config.backbone_learning_rate or 0)
        train_N, parts = start.rows["train"], [(np.empty(0, np.int64), steering_N)]
        if options.pop("cross", False):
            first_N, second_N = (steering_N[rows_N] for rows_N in halves_of(start.labels_N[steering_N]))
            parts = [(first_N, second_N), (second_N, first_N)]
            options["max_steps"] = max(1, start.config.max_steps // 2)
        own: dict[str, Any] = {}
        if self.prepare is not None:
            options, own = self.prepare(start, options, steering_N)
        trainers = []
        for more_N, held_N in parts:
            trainers.append(start.trainer(start.configured(**options), np.append(train_N, more_N), held_N, **own))
            trainers[-1].train()
        bias_K = (
            share * class_bias_of(trainers, start.objective(objective)) if share else torch.zeros(start.num_classes)
        )
        average_heads(trainers)
        if not start.config.freeze_backbone:
            trainers[0].accelerator.wait_for_everyone()  # each has read its best weights
            if trainers[0].is_world_process_zero():
                shutil.rmtree(str(options["output_dir"]), ignore_errors=True)
        return lambda rows_N: predicted_classes(start.logits(trainers[0], rows_N) + bias_K)

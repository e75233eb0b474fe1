"""SelMix beside its rivals: from one checkpoint, on one split, each with the best of a few settings.

Settings are chosen on validation samples that the method was not fitted on; then the method is fitted with all of
them, once a seed, and looked at on the test samples. Of a frozen backbone the weights at the end of a run count, for
every method; with all weights in training those that scored best on the validation samples at one of the looks, the
start among them. Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from selmix_hf.config import OF_PAIRS, SelMixConfig
from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss
from selmix_hf.method.confusion import confusion_counts, confusion_matrix, distinct_names
from selmix_hf.method.objectives import Objective
from selmix_hf.method.ranking import ranking
from selmix_hf.reports.bootstrap import paired_bootstrap
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.studies.compare.rivals import RIVALS, SELMIX, Rival, Setting, Start
from selmix_hf.studies.kept_fits import Fit, Fits
from selmix_hf.studies.timing import PeakMemory
from selmix_hf.studies.workbench import Workbench
from selmix_hf.training.class_bias import class_bias_of
from selmix_hf.training.cost_sensitive_callback import CostSensitiveCallback
from selmix_hf.training.cross_fit import average_heads, halves_of

NUM_SETTINGS = 5
_OF_PAIRS = {option.name: option.default for option in dataclasses.fields(SelMixConfig) if option.name in OF_PAIRS}
_FITS = "fits"  # folder in output_dir
_UNFINISHED = f"{_FITS}/unfinished"  # while a run of all weights is under way
_BEST_KEPT = {
    "eval_strategy": "epoch",
    "save_strategy": "best",
    "load_best_model_at_end": True,
    "save_total_limit": 1,
    "save_only_model": True,
}
Predictor = Callable[[np.ndarray], Tensor]  # rows of `Workbench.images` -> their classes


class Contender(Protocol):
    """A method in the comparison."""

    @property
    def reads_objective(self) -> bool: ...

    @property
    def reads_validation(self) -> bool: ...

    @property
    def draws(self) -> bool: ...

    def settings(self, objective: Objective) -> Sequence[Setting]: ...

    def fit(self, bench: Workbench, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        """Fitted on the training rows and the validation rows given."""
        ...


@dataclass(frozen=True)
class OnFeatures:
    """A rival whose result is a head."""

    rival: Rival

    @property
    def reads_objective(self) -> bool:
        return self.rival.reads_objective

    @property
    def reads_validation(self) -> bool:
        return self.rival.reads_validation

    @property
    def draws(self) -> bool:
        return self.rival.draws

    def settings(self, objective: Objective) -> Sequence[Setting]:
        return self.rival.settings

    def fit(self, bench: Workbench, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        head, features_ND = bench.head_and_features()

        def samples(rows_N: np.ndarray) -> tuple[Tensor, Tensor]:
            return features_ND[torch.as_tensor(rows_N)], torch.as_tensor(bench.labels_N[rows_N])

        config = bench.config
        samples_a_step = 2 * config.train_batch_size * config.gradient_accumulation_steps * config.world_size
        weight, bias = self.rival.fit(
            Start(
                head,
                samples(bench.rows["train"]),
                samples(steering_N),
                bench.objective(objective),
                config.max_steps,
                samples_a_step,
                config.refresh_steps,
                seed,
            ),
            setting,
        )
        return lambda rows_N: (samples(rows_N)[0] @ weight.T + bias).argmax(1)


@dataclass(frozen=True)
class ByTrainer:
    """A method that `SelMixTrainer` runs, on stored features or with all weights, as the run's settings say; the best
    weights of the latter are kept.

    A setting holds options of SelMixConfig; a factor of the run's own learning rates ("scale"); "cross", two runs of
    half the length as `cross_fit.cross_fit` has them; and "bias_share", the share that is added of a class bias, tuned
    on the validation samples after training ("cross": scored by the head that they steered).
    """

    tried: Callable[[Objective], Sequence[Setting]]
    options: dict[str, Any] = field(default_factory=dict)
    reads_objective: bool = True
    reads_validation: bool = True
    cost_sensitive: bool = False
    draws: bool = True
    gain_set_use: str = "steer"

    def settings(self, objective: Objective) -> Sequence[Setting]:
        """Where the run's `gain_set_use` is not the default, the setting that has it already steers alone instead."""
        tried, own = self.tried(objective), {"gain_set_use": self.gain_set_use}
        if self.gain_set_use == "steer":
            return tried
        steers: Setting = {"gain_set_use": "steer"}
        return [
            steers if setting == own else setting if "cross" in setting else {**own, **setting} for setting in tried
        ]

    def fit(self, bench: Workbench, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        options = {"gain_set_use": "steer", **self.options, **setting, "objective": objective, "seed": seed}
        if not bench.config.freeze_backbone:
            options |= {**_BEST_KEPT, "output_dir": f"{bench.config.output_dir}/{_UNFINISHED}"}
        scale, share = options.pop("scale", 1.0), options.pop("bias_share", 0.0)
        if scale != 1:
            options["learning_rate"] = scale * bench.learning_rate()
            options["backbone_learning_rate"] = scale * float(bench.config.backbone_learning_rate or 0)
        train_N, parts = bench.rows["train"], [(np.empty(0, np.int64), steering_N)]
        if options.pop("cross", False):
            first_N, second_N = (steering_N[rows_N] for rows_N in halves_of(bench.labels_N[steering_N]))
            parts = [(first_N, second_N), (second_N, first_N)]
            options["max_steps"] = max(1, bench.config.max_steps // 2)
        own: dict[str, Any] = {}
        if self.cost_sensitive:  # single samples: twice as many as pairs
            options |= {**_OF_PAIRS, "per_device_train_batch_size": 2 * bench.config.per_device_train_batch_size}
            trained_N = np.append(train_N, steering_N) if options["gain_set_use"] == "train" else train_N
            counts_K = np.bincount(bench.labels_N[trained_N], minlength=bench.num_classes).tolist()
            loss = CostSensitiveLoss(bench.objective(objective), counts_K, options.pop("rate", 1.0))
            own = {"compute_loss_func": loss, "callbacks": [CostSensitiveCallback(loss)]}
        trainers = []
        for more_N, held_N in parts:
            trainers.append(bench.trainer(bench.configured(**options), np.append(train_N, more_N), held_N, **own))
            trainers[-1].train()
        bias_K = (
            share * class_bias_of(trainers, bench.objective(objective)) if share else torch.zeros(bench.num_classes)
        )
        average_heads(trainers)
        if not bench.config.freeze_backbone:
            trainers[0].accelerator.wait_for_everyone()  # each has read its best weights
            if trainers[0].is_world_process_zero():
                shutil.rmtree(str(options["output_dir"]), ignore_errors=True)
        return lambda rows_N: (bench.logits(trainers[0], rows_N) + bias_K).argmax(1)


def _selmix_settings(objective: Objective, freeze_backbone: bool) -> Sequence[Setting]:
    """The defaults, and uses of the validation samples beside steering, by the kind of objective."""
    refit: Setting = {"gain_set_use": "refit"}
    train: Setting = {"gain_set_use": "train"}
    if objective.metric.steered:
        cross: Setting = {**refit, "cross": True}
        tried = [{}, refit, {**cross, "bias_share": 0.5}, {**refit, "bias_share": 0.5}, cross]
    else:
        tried = [{}, refit, train, {"cross": True}, {**train, "scale": 0.3}]
    # "cross" averages heads, not networks
    return [setting for setting in tried if freeze_backbone or "cross" not in setting]


def _mixup_settings(objective: Objective) -> Sequence[Setting]:
    return [{"scale": scale} for scale in (1.0, 0.1, 0.3, 3.0, 10.0)]


def _cost_settings(objective: Objective) -> Sequence[Setting]:
    tried = [(1.0, 1.0), (0.3, 1.0), (3.0, 1.0), (1.0, 0.1), (3.0, 0.1)]
    return [{"scale": scale, "rate": rate} for scale, rate in tried]


def contenders(freeze_backbone: bool, gain_set_use: str = "steer") -> dict[str, Contender]:
    """All methods by name, SelMix last.

    Args:
        freeze_backbone: False: SelMix, uniform mixup and the cost-sensitive reduction train all weights; what is
            defined on the head alone stays what it is.
        gain_set_use: of these three methods, in settings that say nothing about it; see `SelMixConfig`.
    """
    known: dict[str, Contender] = {name: OnFeatures(rival) for name, rival in RIVALS.items()}
    by_trainer = partial(ByTrainer, gain_set_use=gain_set_use)
    if not freeze_backbone:
        del known["cost-sensitive head"]
        known["cost-sensitive"] = by_trainer(_cost_settings, {"sampling": "natural"}, cost_sensitive=True)
    known["uniform mixup"] = by_trainer(
        _mixup_settings,
        {"pair_sampling": "uniform"},
        reads_objective=not freeze_backbone,  # to choose the weights
        reads_validation=not freeze_backbone or gain_set_use != "steer",
    )
    known[SELMIX] = by_trainer(partial(_selmix_settings, freeze_backbone=freeze_backbone))
    return known


class SameStart:
    """The comparison.

    Args:
        bench: with the splits "train", "validation" and "test"; every fit is kept in its output_dir, in fits/, so that
            an interrupted comparison goes on where it stopped.
        seeds: of the final runs.
        num_settings: of each method, at most; 1: the most usual one, nothing is searched.
        folds: 2: a method that is fitted on validation samples is fitted on either half, and measured on the other;
            1: on one of the halves alone.
        num_resamples: of the bootstrap.
    """

    def __init__(
        self,
        bench: Workbench,
        seeds: Sequence[int],
        num_settings: int = NUM_SETTINGS,
        folds: int = 2,
        num_resamples: int = 1000,
    ) -> None:
        self.bench, self.seeds, self.num_settings, self.folds = bench, seeds, num_settings, folds
        self.num_resamples = num_resamples
        self.names = distinct_names(bench.data.class_names)
        self.fits = Fits(Path(str(bench.config.output_dir)) / _FITS, bench.identity())

    def run(self, name: str, contender: Contender, objective: str) -> dict[str, Any]:
        """Search, then the final runs: setting, what was tried, reports of the test samples, seconds, memory."""
        aim = self.bench.objective(objective)
        settings = list(contender.settings(aim))[: self.num_settings]
        counts = [
            self._held_out_counts(name, contender, objective, setting)
            for setting in (settings if len(settings) > 1 else [])
        ]
        best = max(range(len(counts)), key=lambda i: ranking(aim, counts[i]), default=0)
        chosen = dict(settings[best])
        seeds = self.seeds if contender.draws else self.seeds[:1]
        finals = [self._finally(name, contender, objective, chosen, seed) for seed in seeds]
        return {
            "setting": chosen,
            "tried": [{"setting": dict(s), "score": aim.score(c)} for s, c in zip(settings, counts, strict=False)],
            "runs": [self._report(aim, fit.predicted_N) for fit in finals],
            "seconds": float(np.mean([fit.seconds for fit in finals])),
            "peak_memory_gb": {kind: max(fit.memory_gb[kind] for fit in finals) for kind in finals[0].memory_gb},
            "hardware": sorted({fit.hardware for fit in finals}),
            "predicted": [fit.predicted_N for fit in finals],
        }

    def differences(self, result: dict[str, Any], selmix: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
        """SelMix minus the method, each averaged over seeds, with paired bootstrap intervals over test samples."""
        most = max(len(result["predicted"]), len(selmix["predicted"]))
        its, ours = (
            np.stack([side["predicted"][i % len(side["predicted"])] for i in range(most)]) for side in (result, selmix)
        )
        labels_N = self.bench.labels_N[self.bench.rows["test"]]
        return paired_bootstrap(
            labels_N,
            its,
            ours,
            self.bench.num_classes,
            self.num_resamples,
            train_counts=self.bench.data.train_counts,
            tail_share=self.bench.config.tail_share,
            worst_share=self.bench.config.worst_share,
        )

    def _held_out_counts(self, name: str, contender: Contender, objective: str, setting: Setting) -> Tensor:
        """Of validation samples that the method was not fitted on, all folds together; K x K."""
        first_N, second_N = self.bench.halves(self.seeds[0])
        parts = [(first_N, second_N), (second_N, first_N)][: self.folds]
        if not contender.reads_validation:
            everything_N = np.concatenate([first_N, second_N])
            parts = [(everything_N, everything_N)]
        counts_KK = torch.zeros(self.bench.num_classes, self.bench.num_classes, dtype=torch.long)
        for fitted_N, measured_N in parts:
            fit = self._fit(name, contender, objective, setting, self.seeds[0], fitted_N, measured_N)
            counts_KK += self._counts(measured_N, fit.predicted_N)
        return counts_KK

    def _finally(self, name: str, contender: Contender, objective: str, setting: Setting, seed: int) -> Fit:
        """Fitted with all validation samples, measured on the test samples."""
        steering_N = np.concatenate(self.bench.halves(seed))
        return self._fit(name, contender, objective, setting, seed, steering_N, self.bench.rows["test"])

    def _fit(
        self,
        name: str,
        contender: Contender,
        objective: str,
        setting: Setting,
        seed: int,
        steering_N: np.ndarray,
        measured_N: np.ndarray,
    ) -> Fit:
        def make() -> Fit:
            if isinstance(contender, OnFeatures):
                self.bench.head_and_features()  # made once, for all
            with PeakMemory() as memory:
                began = time.perf_counter()
                predictor = contender.fit(self.bench, objective, setting, seed, steering_N)
                seconds = time.perf_counter() - began
            config = self.bench.config
            machine = hardware(config.world_size, config.device.type == "cpu")
            return Fit(predictor(measured_N).numpy(), seconds, memory.gb, machine)

        rows = hashlib.sha256(steering_N.tobytes() + measured_N.tobytes()).hexdigest()
        aim = objective if contender.reads_objective else ""
        return self.fits({"method": name, "objective": aim, "setting": setting, "seed": seed, "rows": rows}, make)

    def _counts(self, rows_N: np.ndarray, predicted_N: np.ndarray) -> Tensor:
        labels_N = torch.as_tensor(self.bench.labels_N[rows_N])
        return confusion_counts(labels_N, torch.as_tensor(predicted_N), self.bench.num_classes)

    def _report(self, aim: Objective, predicted_N: np.ndarray) -> dict[str, Any]:
        counts = self._counts(self.bench.rows["test"], predicted_N)
        report = classification_metrics(
            counts,
            train_counts=self.bench.data.train_counts,
            class_names=self.names,
            tail_share=self.bench.config.tail_share,
            worst_share=self.bench.config.worst_share,
        )
        confusion_KK = confusion_matrix(counts, aim.class_prior)
        return {"psi": float(aim.value(confusion_KK)), "violation": aim.violation(confusion_KK), **report}

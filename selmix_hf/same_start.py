"""SelMix beside its rivals: from one checkpoint, on one split, each with the best of a few settings.

Settings are chosen on validation images that the method was not fitted on; then the method is fitted with all of them,
once a seed, and looked at on the test images. Weights at the end of a run count, for every method. Shape suffixes: N
samples, K classes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from selmix_hf.baselines.class_bias import tune_class_bias
from selmix_hf.baselines.cost_sensitive import CostSensitiveLoss
from selmix_hf.callbacks import CostSensitiveCallback
from selmix_hf.comparison import paired_bootstrap
from selmix_hf.config import SelMixConfig
from selmix_hf.confusion import confusion_counts, confusion_matrix, distinct_names
from selmix_hf.gain_set import average_heads, halves_of
from selmix_hf.metrics import classification_metrics
from selmix_hf.objectives import MinimumMetric, Objective
from selmix_hf.rivals import RIVALS, SELMIX, Rival, Setting, Start
from selmix_hf.timing import PeakMemory
from selmix_hf.workbench import Workbench

NUM_SETTINGS = 5
_OF_PAIRS = {
    option.name: option.default
    for option in dataclasses.fields(SelMixConfig)
    if option.name in ("pair_sampling", "inverse_temperature", "target_share", "beta_min", "mixing", "reuse_samples")
}
Predictor = Callable[[np.ndarray], Tensor]  # rows of images -> their classes


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
        images_a_step = 2 * config.train_batch_size * config.gradient_accumulation_steps * config.world_size
        weight, bias = self.rival.fit(
            Start(
                head,
                samples(bench.rows["train"]),
                samples(steering_N),
                bench.objective(objective),
                config.max_steps,
                images_a_step,
                config.refresh_steps,
                seed,
            ),
            setting,
        )
        return lambda rows_N: (samples(rows_N)[0] @ weight.T + bias).argmax(1)


@dataclass(frozen=True)
class ByTrainer:
    """A method that `SelMixTrainer` runs, on stored features or with all weights, as the run's settings say.

    A setting holds options of SelMixConfig; a factor of the run's own learning rates ("scale"); "cross", two runs of
    half the length as `gain_set.cross_fit` has them; and "bias_share", the share that is added of a class bias, tuned
    on the validation images after training ("cross": by the head that was not trained on them).
    """

    tried: Callable[[Objective], Sequence[Setting]]
    options: dict[str, Any] = field(default_factory=dict)
    reads_objective: bool = True
    reads_validation: bool = True
    cost_sensitive: bool = False
    draws: bool = True

    def settings(self, objective: Objective) -> Sequence[Setting]:
        return self.tried(objective)

    def fit(self, bench: Workbench, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        options = {"gain_set_use": "steer", **self.options, **setting, "objective": objective, "seed": seed}
        scale, share = options.pop("scale", 1.0), options.pop("bias_share", 0.0)
        for name in ("learning_rate", "backbone_learning_rate"):
            options[name] = scale * getattr(bench.config, name)
        train_N, parts = bench.rows["train"], [(np.empty(0, np.int64), steering_N)]
        if options.pop("cross", False):
            first_N, second_N = (steering_N[rows_N] for rows_N in halves_of(bench.labels_N[steering_N]))
            parts = [(first_N, second_N), (second_N, first_N)]
            options["max_steps"] = max(1, bench.config.max_steps // 2)
        own: dict[str, Any] = {}
        if self.cost_sensitive:  # single samples: twice as many as pairs
            options |= {**_OF_PAIRS, "per_device_train_batch_size": 2 * bench.config.per_device_train_batch_size}
            counts_K = bench.data.train_counts.tolist()
            loss = CostSensitiveLoss(bench.objective(objective), counts_K, options.pop("rate", 1.0))
            own = {"compute_loss_func": loss, "callbacks": [CostSensitiveCallback(loss)]}
        trainers, scores, labels = [], [], []
        for more_N, held_N in parts:
            trainers.append(bench.trainer(bench.configured(**options), np.append(train_N, more_N), held_N, **own))
            trainers[-1].train()
            if share:
                scores.append(bench.logits(trainers[-1], held_N))
                labels.append(torch.as_tensor(bench.labels_N[held_N]))
        average_heads(trainers)
        bias_K = torch.zeros(bench.num_classes)
        if share:
            bias_K = share * tune_class_bias(torch.cat(scores), torch.cat(labels), bench.objective(objective))
        return lambda rows_N: (bench.logits(trainers[0], rows_N) + bias_K).argmax(1)


def _selmix_settings(objective: Objective, freeze_backbone: bool) -> Sequence[Setting]:
    """The defaults, and uses of the validation images beside steering, by the kind of objective."""
    refit: Setting = {"gain_set_use": "refit"}
    train: Setting = {"gain_set_use": "train"}
    cross: Setting = {"cross": True}
    if isinstance(objective.metric, MinimumMetric):
        tried = [{}, refit, cross, {**cross, "bias_share": 0.3}, {**cross, "bias_share": 1.0}]
    else:
        tried = [{}, refit, train, cross, {**train, "scale": 0.3}]
    # "cross" averages heads, not networks
    return [setting for setting in tried if freeze_backbone or "cross" not in setting]


def _mixup_settings(objective: Objective) -> Sequence[Setting]:
    return [{"scale": scale} for scale in (1.0, 0.1, 0.3, 3.0, 10.0)]


def _cost_settings(objective: Objective) -> Sequence[Setting]:
    tried = [(1.0, 1.0), (0.3, 1.0), (3.0, 1.0), (1.0, 0.1), (3.0, 0.1)]
    return [{"scale": scale, "rate": rate} for scale, rate in tried]


def contenders(freeze_backbone: bool) -> dict[str, Contender]:
    """All methods by name, SelMix last.

    Args:
        freeze_backbone: False: SelMix, uniform mixup and the cost-sensitive reduction train all weights; what is
            defined on the head alone stays what it is.
    """
    known: dict[str, Contender] = {name: OnFeatures(rival) for name, rival in RIVALS.items()}
    if not freeze_backbone:
        del known["cost-sensitive head"]
        known["cost-sensitive"] = ByTrainer(_cost_settings, {"sampling": "natural"}, cost_sensitive=True)
    known["uniform mixup"] = ByTrainer(
        _mixup_settings, {"pair_sampling": "uniform"}, reads_objective=False, reads_validation=False
    )
    known[SELMIX] = ByTrainer(lambda objective: _selmix_settings(objective, freeze_backbone))
    return known


class SameStart:
    """The comparison.

    Args:
        bench: with the splits "train", "validation" and "test".
        seeds: of the final runs.
        num_settings: of each method, at most; 1: the most usual one, nothing is searched.
        folds: 2: a method that is fitted on validation images is fitted on either half, and measured on the other;
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
        self._searched: dict[tuple, Tensor] = {}
        self._final: dict[tuple, tuple[np.ndarray, float, dict[str, float]]] = {}

    def run(self, name: str, contender: Contender, objective: str) -> dict[str, Any]:
        """Search, then the final runs: setting, what was tried, reports of the test images, seconds, memory."""
        aim = self.bench.objective(objective)
        settings = list(contender.settings(aim))[: self.num_settings]
        tried: list[dict[str, Any]] = [
            {"setting": dict(setting), "score": aim.score(self._held_out_counts(name, contender, objective, setting))}
            for setting in (settings if len(settings) > 1 else [])
        ]
        chosen = max(tried, key=lambda row: row["score"])["setting"] if tried else dict(settings[0])
        seeds = self.seeds if contender.draws else self.seeds[:1]
        finals = [self._finally(name, contender, objective, chosen, seed) for seed in seeds]
        return {
            "setting": chosen,
            "tried": tried,
            "runs": [self._report(aim, predicted_N) for predicted_N, _, _ in finals],
            "seconds": float(np.mean([seconds for _, seconds, _ in finals])),
            "peak_memory_gb": {kind: max(memory[kind] for _, _, memory in finals) for kind in finals[0][2]},
            "predicted": [predicted_N for predicted_N, _, _ in finals],
        }

    def differences(self, result: dict[str, Any], selmix: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
        """SelMix minus the method, each averaged over seeds, with paired bootstrap intervals over test images."""
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
        )

    def _key(self, name: str, contender: Contender, objective: str, setting: Setting) -> tuple:
        return name, objective if contender.reads_objective else "", *sorted(setting.items())

    def _held_out_counts(self, name: str, contender: Contender, objective: str, setting: Setting) -> Tensor:
        """Of validation images that the method was not fitted on, all folds together; K x K."""
        key = self._key(name, contender, objective, setting)
        if key not in self._searched:
            first_N, second_N = self.bench.halves(self.seeds[0])
            parts = [(first_N, second_N), (second_N, first_N)][: self.folds]
            if not contender.reads_validation:
                everything_N = np.concatenate([first_N, second_N])
                parts = [(everything_N, everything_N)]
            counts_KK = torch.zeros(self.bench.num_classes, self.bench.num_classes, dtype=torch.long)
            for fitted_N, measured_N in parts:
                predictor = contender.fit(self.bench, objective, setting, self.seeds[0], fitted_N)
                counts_KK += self._counts(measured_N, predictor(measured_N))
            self._searched[key] = counts_KK
        return self._searched[key]

    def _finally(
        self, name: str, contender: Contender, objective: str, setting: Setting, seed: int
    ) -> tuple[np.ndarray, float, dict[str, float]]:
        """Predicted classes of the test images, seconds of the fit, and the most memory meanwhile, in GiB."""
        key = (*self._key(name, contender, objective, setting), seed)
        if key not in self._final:
            if isinstance(contender, OnFeatures):
                self.bench.head_and_features()  # made once, for all
            steering_N = np.concatenate(self.bench.halves(seed))
            with PeakMemory() as memory:
                began = time.perf_counter()
                predictor = contender.fit(self.bench, objective, setting, seed, steering_N)
                seconds = time.perf_counter() - began
            self._final[key] = predictor(self.bench.rows["test"]).numpy(), seconds, memory.gb
        return self._final[key]

    def _counts(self, rows_N: np.ndarray, predicted_N: Tensor) -> Tensor:
        return confusion_counts(torch.as_tensor(self.bench.labels_N[rows_N]), predicted_N, self.bench.num_classes)

    def _report(self, aim: Objective, predicted_N: np.ndarray) -> dict[str, Any]:
        counts = self._counts(self.bench.rows["test"], torch.as_tensor(predicted_N))
        report = classification_metrics(
            counts,
            train_counts=self.bench.data.train_counts,
            class_names=self.names,
            tail_share=self.bench.config.tail_share,
        )
        confusion_KK = confusion_matrix(counts, aim.class_prior)
        return {"psi": float(aim.value(confusion_KK)), "violation": aim.violation(confusion_KK), **report}

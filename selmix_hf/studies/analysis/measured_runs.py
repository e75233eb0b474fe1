"""Runs of SelMix from one checkpoint, each measured before and after: what every study of an option is made of.

One half of the validation samples steers, the other is measured, every seed halves them anew; the test set takes no
part. Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selmix_hf.config import SelMixConfig
from selmix_hf.data.labels import first_of_each
from selmix_hf.data.long_tail import long_tailed_shares
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.one_start import OneStart
from selmix_hf.studies.start import BenchmarkArguments
from selmix_hf.training.selmix import SelMixTrainer

MEASURED = ("psi", "mean_recall", "min_recall", "h_mean", "smallest_coverage")


@dataclass(frozen=True)
class Setting:
    """One row of a study.

    Attributes:
        label: for tables.
        value: for the axis of a plot; None for names.
        options: of SelMixConfig, in the place of the run's own.
        per_class: steer by so many samples a class, or all where it has fewer.
        smallest_class: draw the training samples anew, from as many of the most frequent class as before down to so
            many of the rarest one, and begin with a head fitted to them by the logit-adjusted loss.
    """

    label: str
    value: float | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    per_class: int | None = None
    smallest_class: int | None = None


class MeasuredRuns(OneStart):
    """Each setting and seed once.

    Args:
        arguments, config, checkpoint: as for `OneStart`.
        data: "train" and "validation" are used, and "pool": further samples that smaller imbalance may draw from.

    Raises:
        FileNotFoundError, ValueError: as `loading.load_classifier` and `SelMixTrainer`, for a checkpoint or data that
            cannot work: a trainer is made, and with a frozen backbone the features, before any study.
    """

    def __init__(
        self, arguments: BenchmarkArguments, config: SelMixConfig, data: BenchmarkData, checkpoint: str
    ) -> None:
        super().__init__(arguments, config, data, checkpoint, ("train", "validation", "pool"))
        self._done: dict[str, dict[str, Any]] = {}
        self.trainer(self.configured(), self.rows["train"], self.halves(0)[0])

    def run(self, objective: str, seed: int, setting: Setting) -> dict[str, Any]:
        """Measured before and after, and the history of the objective on the samples that steer."""
        key = f"{objective} {seed} {dataclasses.replace(setting, label='', value=None)}"
        if key not in self._done:
            self._done[key] = self._run(objective, seed, setting)
        return self._done[key]

    def _run(self, objective: str, seed: int, setting: Setting) -> dict[str, Any]:
        steering_N, measured_N = self.halves(seed)
        train_N = self.rows["train"]
        if setting.per_class is not None:
            steering_N = first_of_each(steering_N, self.labels_N, [setting.per_class] * self.num_classes)
        if setting.smallest_class is not None:
            train_N = self._drawn(setting.smallest_class)
        trainer = self.trainer(self.configured(objective=objective, seed=seed, **setting.options), train_N, steering_N)
        if setting.smallest_class is not None:
            self._fit_head(trainer, train_N)
        before = self._measure(trainer, measured_N)
        trainer.train()
        logs = [log for log in trainer.state.log_history if "gain_set_psi" in log]
        return {
            "before": before,
            "after": self._measure(trainer, measured_N),
            "steps": [log["step"] for log in logs],
            "psi": [round(log["gain_set_psi"], 4) for log in logs],
            "inverse_temperature": logs[0].get("inverse_temperature"),
            "effective_pairs": float(np.mean([log["effective_pairs"] for log in logs])),
        }

    def _measure(self, trainer: SelMixTrainer, rows_N: np.ndarray) -> dict[str, float]:
        labels_N = torch.as_tensor(self.labels_N[rows_N])
        counts = confusion_counts(labels_N, self.logits(trainer, rows_N), self.num_classes)
        metrics = trainer.evaluations.metrics(counts)
        return {name: round(float(metrics[name]), 6) for name in MEASURED}

    def _drawn(self, smallest_class: int) -> np.ndarray:
        """Rows of a training set of an exponential profile; classes keep their order by frequency."""
        wanted_K = long_tailed_profile(self.data.train_counts, smallest_class)
        return first_of_each(self._trainable(), self.labels_N, wanted_K)

    def can_draw(self, smallest_class: int) -> bool:
        """Whether there are samples enough for a training set with so many of the rarest class."""
        wanted_K = long_tailed_profile(self.data.train_counts, smallest_class)
        found_K = np.bincount(self.labels_N[self._trainable()], minlength=self.num_classes)
        return bool((found_K >= wanted_K).all())

    def _trainable(self) -> np.ndarray:
        return np.concatenate([self.rows["train"], self.rows.get("pool", np.empty(0, np.int64))])

    def _fit_head(self, trainer: SelMixTrainer, train_N: np.ndarray) -> None:
        features_ND, labels_N = trainer.passes.features_of(self.dataset.select(train_N)), self.labels_N[train_N]
        loss = LogitAdjustedLoss(np.bincount(labels_N, minlength=self.num_classes).tolist())
        trainer.head.assign(*retrain_head(features_ND.float(), torch.as_tensor(labels_N), self.num_classes, loss))


def long_tailed_profile(train_counts: np.ndarray, smallest_class: int) -> np.ndarray:
    """Counts (K), rounded, that fall exponentially from the largest class to `smallest_class` (at least 1), classes in
    the order that they have by frequency."""
    order_K, largest = np.argsort(-train_counts, kind="stable"), int(train_counts.max())
    wanted_K = np.empty_like(train_counts)
    factor = largest / min(max(smallest_class, 1), largest)
    wanted_K[order_K] = np.round(largest * np.array(long_tailed_shares(len(train_counts), factor)))
    return wanted_K

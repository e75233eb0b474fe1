"""SelMix beside other methods: from one checkpoint, on one split, each with the best of a few settings.

Settings are chosen on validation samples that the method was not fitted on; then the method is fitted with all of
them, once a seed, and looked at on the test samples. Of a frozen backbone the weights at the end of a run count, for
every method; with all weights in training those that scored best on the validation samples at one of the looks, the
start among them. Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix_hf.method.confusion import confusion_counts, confusion_matrix, distinct_names
from selmix_hf.method.objectives import Objective
from selmix_hf.method.ranking import ranking
from selmix_hf.reports.bootstrap import paired_bootstrap
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.studies.compare.base import Method, Setting
from selmix_hf.studies.compare.fits_on_disk import FOLDER, Fit, Fits
from selmix_hf.studies.one_start import OneStart
from selmix_hf.studies.timing import PeakMemory

NUM_SETTINGS = 5


class Comparison:
    """Methods from one start: the settings of each searched, then a run for every seed.

    Args:
        start: with the splits "train", "validation" and "test"; every fit is kept in its output_dir, in fits/, so that
            an interrupted comparison goes on where it stopped.
        seeds: of the final runs.
        num_settings: of each method, at most; 1: the most usual one, nothing is searched.
        folds: 2: a method that is fitted on validation samples is fitted on either half, and measured on the other;
            1: on one of the halves alone.
        num_resamples: of the bootstrap.
    """

    def __init__(
        self,
        start: OneStart,
        seeds: Sequence[int],
        num_settings: int = NUM_SETTINGS,
        folds: int = 2,
        num_resamples: int = 1000,
    ) -> None:
        self.start, self.seeds, self.num_settings, self.folds = start, seeds, num_settings, folds
        self.num_resamples = num_resamples
        self.names = distinct_names(start.data.class_names)
        self.fits = Fits(Path(str(start.config.output_dir)) / FOLDER, start.identity())

    def run(self, name: str, method: Method, objective: str) -> dict[str, Any]:
        """Search, then the final runs: setting, what was tried, reports of the test samples, seconds, memory."""
        aim = self.start.objective(objective)
        settings = list(method.settings(aim, self.start.config))[: self.num_settings]
        counts = [
            self._held_out_counts(name, method, objective, setting)
            for setting in (settings if len(settings) > 1 else [])
        ]
        best = max(range(len(counts)), key=lambda i: ranking(aim, counts[i]), default=0)
        chosen = dict(settings[best])
        seeds = self.seeds if method.draws else self.seeds[:1]
        finals = [self._finally(name, method, objective, chosen, seed) for seed in seeds]
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
        labels_N = self.start.labels_N[self.start.rows["test"]]
        return paired_bootstrap(
            labels_N,
            its,
            ours,
            self.start.num_classes,
            self.num_resamples,
            train_counts=self.start.data.train_counts,
            tail_share=self.start.config.tail_share,
            worst_share=self.start.config.worst_share,
        )

    def _held_out_counts(self, name: str, method: Method, objective: str, setting: Setting) -> Tensor:
        """Of validation samples that the method was not fitted on, all folds together; K x K."""
        first_N, second_N = self.start.halves(self.seeds[0])
        parts = [(first_N, second_N), (second_N, first_N)][: self.folds]
        if not method.reads_validation:
            everything_N = np.concatenate([first_N, second_N])
            parts = [(everything_N, everything_N)]
        counts_KK = torch.zeros(self.start.num_classes, self.start.num_classes, dtype=torch.long)
        for fitted_N, measured_N in parts:
            fit = self._fit(name, method, objective, setting, self.seeds[0], fitted_N, measured_N)
            counts_KK += self._counts(measured_N, fit.predicted_N)
        return counts_KK

    def _finally(self, name: str, method: Method, objective: str, setting: Setting, seed: int) -> Fit:
        """Fitted with all validation samples, measured on the test samples."""
        steering_N = np.concatenate(self.start.halves(seed))
        return self._fit(name, method, objective, setting, seed, steering_N, self.start.rows["test"])

    def _fit(
        self,
        name: str,
        method: Method,
        objective: str,
        setting: Setting,
        seed: int,
        steering_N: np.ndarray,
        measured_N: np.ndarray,
    ) -> Fit:
        def make() -> Fit:
            if method.on_features:
                self.start.head_and_features()  # made once, for all
            with PeakMemory() as memory:
                began = time.perf_counter()
                predictor = method.fit(self.start, objective, setting, seed, steering_N)
                seconds = time.perf_counter() - began
            config = self.start.config
            machine = hardware(config.world_size, config.device.type == "cpu")
            return Fit(predictor(measured_N).numpy(), seconds, memory.gb, machine)

        rows = hashlib.sha256(steering_N.tobytes() + measured_N.tobytes()).hexdigest()
        aim = objective if method.reads_objective else ""
        return self.fits({"method": name, "objective": aim, "setting": setting, "seed": seed, "rows": rows}, make)

    def _counts(self, rows_N: np.ndarray, predicted_N: np.ndarray) -> Tensor:
        labels_N = torch.as_tensor(self.start.labels_N[rows_N])
        return confusion_counts(labels_N, torch.as_tensor(predicted_N), self.start.num_classes)

    def _report(self, aim: Objective, predicted_N: np.ndarray) -> dict[str, Any]:
        counts = self._counts(self.start.rows["test"], predicted_N)
        report = classification_metrics(
            counts,
            train_counts=self.start.data.train_counts,
            class_names=self.names,
            tail_share=self.start.config.tail_share,
            worst_share=self.start.config.worst_share,
        )
        confusion_KK = confusion_matrix(counts, aim.class_prior)
        return {"psi": float(aim.value(confusion_KK)), "violation": aim.violation(confusion_KK), **report}

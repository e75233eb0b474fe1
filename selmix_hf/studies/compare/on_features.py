"""Methods that see features of a frozen backbone: what they make is a head.

Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix_hf.config import SelMixConfig
from selmix_hf.head_fitting.retraining import Head
from selmix_hf.method.confusion import predicted_classes
from selmix_hf.method.objectives import Objective
from selmix_hf.studies.compare.base import Method, Predictor, Setting
from selmix_hf.studies.one_start import OneStart

Samples = tuple[Tensor, Tensor]  # features N x D, labels N


@dataclass(frozen=True)
class HeadTask:
    """What every head is made from.

    Attributes:
        head: weight (K x D) and bias (K) of the checkpoint.
        train, validation: features and labels.
        objective: to be optimised.
        steps, batch_size: the budget: images seen are their product.
        refresh_steps: between two looks at the validation set, of those that look.
        seed: of the draws.
    """

    head: Head
    train: Samples
    validation: Samples
    objective: Objective
    steps: int
    batch_size: int
    refresh_steps: int
    seed: int

    @property
    def class_counts(self) -> Tensor:
        """Training samples of each class, K."""
        return torch.bincount(self.train[1], minlength=len(self.head[0]))

    @property
    def budget(self) -> dict[str, Any]:
        """For `head_fitting.retraining.retrain_head`."""
        return {"steps": self.steps, "batch_size": self.batch_size, "seed": self.seed}


@dataclass(frozen=True)
class OnFeatures(Method):
    """A method whose result is a head.

    Attributes:
        make: the head, of a task and a setting.
        tried: the settings, the most usual one first.
    """

    make: Callable[[HeadTask, Setting], Head]
    tried: Sequence[Setting] = ({},)
    on_features = True

    def settings(self, objective: Objective, config: SelMixConfig) -> Sequence[Setting]:
        return self.tried

    def fit(self, start: OneStart, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        head, features_ND = start.head_and_features()

        def samples(rows_N: np.ndarray) -> Samples:
            return features_ND[torch.as_tensor(rows_N)], torch.as_tensor(start.labels_N[rows_N])

        config = start.config
        samples_a_step = 2 * config.train_batch_size * config.gradient_accumulation_steps * config.world_size
        weight, bias = self.make(
            HeadTask(
                head,
                samples(start.rows["train"]),
                samples(steering_N),
                start.objective(objective),
                config.max_steps,
                samples_a_step,
                config.refresh_steps,
                seed,
            ),
            setting,
        )
        return lambda rows_N: predicted_classes(samples(rows_N)[0] @ weight.T + bias)

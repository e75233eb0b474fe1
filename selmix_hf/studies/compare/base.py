"""What the comparison asks of a method.

Shape suffix: N samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from selmix_hf.config import SelMixConfig
from selmix_hf.method.objectives import Objective
from selmix_hf.studies.one_start import OneStart

Setting = Mapping[str, Any]
Predictor = Callable[[np.ndarray], Tensor]  # rows of `OneStart.dataset` -> their classes


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """What turns the start into another classifier.

    Attributes:
        reads_objective: whether what it makes depends on the objective, beside the choice of the setting.
        reads_validation: whether it is fitted on validation samples, so that others must choose its setting.
        draws: whether it differs from seed to seed.
        frozen_backbone: whether it is compared where the backbone is frozen.
        whole_network: whether it is compared where all weights train.
        on_features: whether it needs the start's features of all samples.
    """

    reads_objective: bool = False
    reads_validation: bool = False
    draws: bool = True
    frozen_backbone: bool = True
    whole_network: bool = True
    on_features: ClassVar[bool]

    def in_run(self, config: SelMixConfig) -> Method:
        """The method as it is with the settings of a run."""
        return self

    @abstractmethod
    def settings(self, objective: Objective, config: SelMixConfig) -> Sequence[Setting]:
        """Those it is tried with, the most usual one first."""

    @abstractmethod
    def fit(self, start: OneStart, objective: str, setting: Setting, seed: int, steering_N: np.ndarray) -> Predictor:
        """Fitted on the training rows and the validation rows given."""

"""Plain-language warnings for signs that a run will not do what its user hopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selmix_hf.objectives import INFEASIBLE
from selmix_hf.pair_distribution import PairDistribution

_VANISHING = 1e-7
_WAY_OUT = "Lower learning_rate or backbone_learning_rate, drop momentum, or train in float32."


class GainWatch:
    """Looks at every refresh and warns once about each failure signature.

    Args:
        warn: takes the sentence.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._said: set[str] = set()

    def look(self, gain: Tensor, distribution: PairDistribution, worst_recall: float) -> None:
        """Look at G (K x K), what P was made of it, and the worst recall on the gain set."""
        if worst_recall == 1:
            self._once(
                "perfect",
                "every sample of gain_dataset is already classified rightly, so it cannot show what would help on "
                "unseen data. Was it part of the training data? Give samples that the model has not seen.",
            )
        elif float(gain.abs().max()) < _VANISHING:
            self._once(
                "vanishing",
                f"all gains vanish (largest {float(gain.abs().max()):.1e}): no mix of two classes moves the "
                "objective. The head is saturated, or the features of the classes do not differ; try another "
                "objective, or train the backbone.",
            )
        elif distribution.mask_dropped:
            self._once(
                "negative",
                "no pair of classes has a positive gain: to first order every mix lowers the objective. The least "
                "harmful pairs are drawn. The model may be at its optimum for this objective.",
            )

    def _once(self, kind: str, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._warn(sentence)


def require_finite(value: Tensor, what: str, step: int) -> None:
    """Stop the run where a loss or a gain is not finite.

    Raises:
        FloatingPointError: naming what, the step and the way out.
    """
    if not bool(torch.isfinite(value).all()):
        raise FloatingPointError(
            f"the {what} is not finite at step {step}; stopped before the update, earlier checkpoints are intact. "
            f"{_WAY_OUT}"
        )


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Stop the run before weights that are not finite are saved or returned.

    Raises:
        FloatingPointError: naming a parameter, the step and the way out.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise FloatingPointError(
                f"the weights are not finite at step {step} ({name}); not saved, earlier checkpoints are intact. "
                f"{_WAY_OUT}"
            )


def say_if_never_feasible(log_history: Sequence[Mapping[str, Any]], warn: Callable[[str], object]) -> None:
    """Warn where every selection score that was logged is that of a matrix that violates a constraint."""
    scores = [value for log in log_history for name, value in log.items() if name.endswith("selection_score")]
    if scores and max(scores) <= INFEASIBLE:
        warn(
            "the constraints held at no evaluation of this run: the checkpoint with the smallest violation was "
            "chosen. Train longer, raise constraint_rate, or lower the level of the constraint."
        )

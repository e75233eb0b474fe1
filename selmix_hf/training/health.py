"""Plain-language warnings for signs that a run will not do what its user hopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from selmix_hf.method.minimum import worst_number, worst_share_title
from selmix_hf.method.objectives import INFEASIBLE, Constraint, Metric, Objective, recalls
from selmix_hf.method.pair_distribution import PairDistribution
from selmix_hf.reports.metrics import standard_error
from selmix_hf.training.steering import Refresh
from selmix_hf.training.swapped_classes import sentence_on_cycles

# between what healthy runs and what spoilt ones were measured to show: docs/health.md
_WINDOW, _LONG_WINDOW = 10, 20  # refreshes
_SWING, _SWING_OF_MINIMUM = 2.0, 4.0  # standard errors; which class is the worst changes from look to look
_KEPT_GAIN, _FEWEST_REFRESHES = 0.08, 3
_RECALL_ERROR = 0.08
_FEW_CLASSES = 20  # of which a tenth is a class or two
_REACH = 0.01  # of psi
_SLACK_ERROR = 0.1
WAY_OUT = "Lower learning_rate or backbone_learning_rate, drop momentum, or train in float32."


class HealthWatch:
    """Looks at every refresh and warns once about each failure signature: docs/health.md.

    A resumed run recalls what earlier refreshes showed from its log; it may repeat a warning.

    Args:
        objective: what the run is for.
        warn: takes the sentence.

    Attributes:
        said: what was warned of: "order", "small", a constraint's name, "perfect", "vanishing", "negative", "swing",
            "stale".
    """

    def __init__(self, objective: Objective, warn: Callable[[str], object]) -> None:
        self.objective, self._warn = objective, warn
        self.said: set[str] = set()
        self._seen: list[Mapping[str, Any]] = []  # reports of the latest refreshes

    def recall(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Take the place of what was seen by what the logs of a run tell of its refreshes."""
        self._seen = [log for log in logs if "gain_set_psi" in log][-_LONG_WINDOW:]

    def start(self, counts: Tensor, class_names: Sequence[str]) -> None:
        """Look at the counts (K x K) of the gain set at the start of a run, of classes with these names (K)."""
        if swapped := sentence_on_cycles(counts, class_names):
            self._once("order", swapped)
        metric, smallest = self.objective.metric, int(counts.sum(1).min())
        if metric.components is recalls:
            self._look_at_recalls(metric, counts, smallest)
        for constraint in self.objective.constraints:
            error = standard_error(partial(_smallest_slack, constraint), counts, self.objective.class_prior)
            if error > _SLACK_ERROR:
                self._once(
                    constraint.name,
                    f"gain_dataset is small for the {constraint.name} constraint: with {smallest} samples of its "
                    f"smallest class, what is constrained is known to ±{error:.2f} (one standard error). It may hold "
                    "there and nowhere else: give more validation samples.",
                )

    def _look_at_recalls(self, metric: Metric, counts: Tensor, smallest: int) -> None:
        number = max(worst_number(metric.share, len(counts)), 1)
        error = recall_error(counts) / math.sqrt(number)
        if error <= _RECALL_ERROR:
            return
        what, which = "recall of a class", "which is the worst"
        if number > 1:
            what, which = worst_share_title(metric.share), "which classes these are"
        others = ", a larger worst_share, or mean_recall as the objective"
        if not metric.share:
            larger = " with worst_share=0.5" if len(counts) <= _FEW_CLASSES else ""
            others = f", or choose an objective that averages, such as worst_share_recall{larger}"
        self._once(
            "small",
            f"gain_dataset is small for {metric.name}: with {smallest} samples of its smallest class, the {what} is "
            f"known to ±{error:.2f} (one standard error), and chance may decide {which}. Give more "
            f"validation samples{others}.",
        )

    def look(self, refresh: Refresh, reach: float = 0.0, settled: bool = True) -> None:
        """Look at a refresh.

        Args:
            refresh: the latest; where single samples are drawn there are no gains in it.
            reach: learning rate times optimizer steps: what a run makes of a gain, to first order.
            settled: whether a swing and a stale P matter; a rate that was worked out is high until it has fallen.
        """
        self._seen = last = [*self._seen, refresh.report][-_LONG_WINDOW:]
        gain, distribution = refresh.gain, refresh.distribution
        if refresh.report["gain_set_worst_recall"] == 1:
            self._once(
                "perfect",
                "every sample of gain_dataset is already classified rightly, so it cannot show what would help on "
                "unseen data. Was it part of the training data? Give samples that the model has not seen.",
            )
        elif gain is not None and distribution is not None:
            self._look_at_gains(gain, distribution, reach)
        if not settled:
            return
        size, limit = swing(last), _SWING if self.objective.metric.components is None else _SWING_OF_MINIMUM
        if size is not None and size > limit:
            or_else = ", or let more pairs share in P: a larger target_share or a smaller inverse_temperature"
            self._once(
                "swing",
                f"the objective swings: over the last {_WINDOW} refreshes it went up and down on gain_dataset by "
                f"{size:.1f} times its standard error there. Lower learning_rate{or_else * (gain is not None)}.",
            )
        kept = mean_kept_gain(last)
        if kept is not None and kept < _KEPT_GAIN:
            self._once(
                "stale",
                f"P grows stale within a period: at the latest refreshes the old P had {kept:.0%} of the new one's "
                "gain left. Lower refresh_steps or learning_rate, or an inverse_temperature that leaves few pairs.",
            )

    def _look_at_gains(self, gain: Tensor, distribution: PairDistribution, reach: float) -> None:
        largest = float(gain.abs().max())
        if largest * reach < _REACH:
            self._once(
                "vanishing",
                f"all gains vanish (largest {largest:.1e}): at this learning rate a whole run of the best mix would "
                f"move the objective by {largest * reach:.1e} only. The head is saturated, or the features of the "
                "classes do not differ; try another objective, or train the backbone.",
            )
        elif distribution.mask_dropped:
            self._once(
                "negative",
                "no pair of classes has a positive gain: to first order every mix lowers the objective. The least "
                "harmful pairs are drawn. The model may be at its optimum for this objective.",
            )

    def _once(self, kind: str, sentence: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self._warn(sentence)


def recall_error(counts: Tensor) -> float:
    """Standard error of the recall of a class, root mean square over classes, from the counts (K x K) of a set."""
    size_K = counts.sum(1).double()
    recall_K = (counts.diagonal() + 0.5) / (size_K + 1)  # as smoothed for the gain
    return math.sqrt(float((recall_K * (1 - recall_K) / size_K).mean()))


def swing(refreshes: Sequence[Mapping[str, Any]]) -> float | None:
    """How far psi goes up and down on the gain set over the last logs of refreshes, in its standard errors there: the
    root mean product of a difference with the next one, where they point apart; 0 where it only rises or falls. None
    for fewer than ten differences, or without an error."""
    last = refreshes[-_WINDOW - 1 :]
    psi = [log["gain_set_psi"] for log in last]
    error = sum(float(log["gain_set_psi_error"]) for log in last) / len(last)
    differences = [after - before for before, after in pairwise(psi)]
    if len(differences) < _WINDOW or not error:
        return None
    products = [max(0.0, -first * second) for first, second in pairwise(differences)]
    return math.sqrt(sum(products) / len(products)) / error


def mean_kept_gain(refreshes: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean "kept_gain" of `pair_distribution.staleness` over the last twenty reports of refreshes; None for fewer than
    three."""
    kept = [log["kept_gain"] for log in refreshes[-_LONG_WINDOW:] if "kept_gain" in log]
    return sum(kept) / len(kept) if len(kept) >= _FEWEST_REFRESHES else None


def _smallest_slack(constraint: Constraint, confusion: Tensor) -> Tensor:
    return constraint.slack(confusion).min()


class FiniteCheck:
    """Whether all of a tensor is finite, to be asked later: on a GPU only what came before it is waited for, not what
    was queued since."""

    def __init__(self, value: Tensor) -> None:
        self._finite = torch.isfinite(value).all()
        self._known: torch.cuda.Event | None = None
        if self._finite.is_cuda:
            on_cpu = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._finite = on_cpu.copy_(self._finite, non_blocking=True)
            self._known = torch.cuda.Event()
            self._known.record()

    def __bool__(self) -> bool:
        if self._known is not None:
            self._known.synchronize()
        return bool(self._finite)


def require_finite(value: Tensor | FiniteCheck, what: str, step: int) -> None:
    """Stop the run where a loss or a gain is not finite.

    Raises:
        FloatingPointError: naming what, the step and the way out.
    """
    if not bool(value if isinstance(value, FiniteCheck) else FiniteCheck(value)):
        raise FloatingPointError(
            f"the {what} is not finite at step {step}; stopped before the update, earlier checkpoints are intact. "
            f"{WAY_OUT}"
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
                f"{WAY_OUT}"
            )


@contextmanager
def blamed_on_weights(model: nn.Module, step: int, what: str) -> Iterator[None]:
    """Inside, logits that are no numbers are a FloatingPointError of `require_finite_weights` where these are why; any
    other ValueError says the step, and of what it is."""
    try:
        yield
    except ValueError as error:
        require_finite_weights(model, step)
        if type(error) is not ValueError:
            raise
        raise ValueError(f"{what} at step {step}: {error}") from error


def say_if_never_feasible(log_history: Sequence[Mapping[str, Any]], warn: Callable[[str], object]) -> None:
    """Warn where every selection score that was logged is that of a matrix that violates a constraint."""
    scores = [value for log in log_history for name, value in log.items() if name.endswith("selection_score")]
    if scores and max(scores) <= INFEASIBLE:
        warn(
            "the constraints held at no evaluation of this run: the checkpoint with the smallest violation was "
            "chosen. Train longer, raise constraint_rate, or lower the level of the constraint."
        )

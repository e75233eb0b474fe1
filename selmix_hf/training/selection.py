"""Which evaluation of a run is the best: by its score, and where scores tie by what a user would want next.

Shape suffix: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerState

from selmix_hf.method.objectives import INFEASIBLE, Objective
from selmix_hf.method.ranking import CURE, comparable, has_score


class Selection:
    """The best evaluation of a run so far, by `args.metric_for_best_model`; a selection score by its `ranking`.

    Args:
        objective: of the run.
        args: its `SelMixConfig`.
        warn: takes a sentence.

    Attributes:
        best: ranking of the best evaluation; None while none had a score.
        later: score and step of the best evaluation after the start; None while none had a score.
    """

    def __init__(self, objective: Objective, args: Any, warn: Callable[[str], object]) -> None:
        self.objective, self.args, self._warn = objective, args, warn
        self.best: tuple[float, ...] | None = None
        self.later: tuple[float, int] | None = None
        self._warned = False

    @property
    def metric(self) -> str:
        """As it is called among the metrics of an evaluation."""
        return f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"

    def improves(self, score: float, recalls: tuple[float, ...], step: int) -> bool:
        """Look at an evaluation; whether it is better than all before. Without a score it never is: that is said once.

        Args:
            score: value of `metric`.
            recalls: `ascending_recalls` of the same evaluation.
            step: of the weights.
        """
        if not has_score(score):
            if not self._warned:
                self._warn(
                    f"{self._what} is {score} at step {step} on the set that chooses the checkpoint: an evaluation "
                    f"like that has no score and is not kept as the best. {self._cure}"
                )
            self._warned = True
            return False
        if step and (self.later is None or self._signed(score) > self._signed(self.later[0])):
            self.later = score, step
        found = self._signed(score), *(recalls if self._ranks else ())
        better = self.best is None or found > self.best
        self.best = found if better else self.best
        return better

    def choose(
        self, score: float, recalls: tuple[float, ...], state: TrainerState, saves: bool, may_win: bool = True
    ) -> bool:
        """Look at an evaluation of the current step and enter it into the state of the run if it is the best so far.
        With `load_best_model_at_end` weights that are not saved, which could not be returned, are not the best.

        Args:
            score, recalls: as for `improves`.
            state: of the run.
            saves: whether a checkpoint of this step is due.
            may_win: whether these weights may be chosen at all.

        Returns:
            whether it is the best.
        """
        args, step = self.args, state.global_step
        saved = args.save_strategy == "best" or saves or step == 0 or not args.load_best_model_at_end
        better = saved and may_win and self.improves(score, recalls, step)
        if better:
            state.best_metric = score
            if args.save_strategy != "no":
                state.best_global_step = step
        return better

    def saved(self) -> Tensor:
        """What a checkpoint keeps, float64: `later`, then `best`."""
        return torch.tensor([*(self.later or (math.nan, 0)), *(self.best or ())], dtype=torch.float64)

    def load(self, saved: Tensor | None, best_metric: float | None) -> None:
        """Go on from what `saved` gave; from the best metric alone where an older checkpoint has nothing else, which
        then wins ties."""
        if saved is not None:
            score, step, *best = saved.tolist()
            self.later = (score, int(step)) if step else None
            self.best = tuple(best) or None
        elif best_metric is not None:
            self.best = self._signed(best_metric), math.inf

    def say_if_nothing_was_gained(self, best_step: int | None, best_score: float | None) -> None:
        """Warn where a run that has ended returns its start, or had nothing to choose by.

        Args:
            best_step, best_score: of the best evaluation, as the state of the run has them.
        """
        if not self.args.load_best_model_at_end or self.args.eval_strategy == "no":
            return
        if self.best is None:
            self._warn(
                f"no evaluation of this run has a score, since {self._what} was never a number: nothing could be "
                f"chosen, and the weights are those of the last step. {self._cure}"
            )
        elif best_step == 0 and best_score is not None:
            after = "none after it has a score"
            if self.later is not None:
                after = f"the best after it {_shown(self.later[0])} at step {self.later[1]}"
            self._warn(
                f"the start was kept: no evaluation was better by {self._what} (start {_shown(best_score)}, {after}). "
                f"{self._advice(best_score)}"
            )

    @property
    def _ranks(self) -> bool:
        return self.metric.endswith("selection_score") and bool(self.args.greater_is_better)

    @property
    def _what(self) -> str:
        return self.objective.name if self.metric.endswith("selection_score") else self.metric

    @property
    def _cure(self) -> str:
        return CURE if self.metric.endswith("selection_score") else "Choose another metric_for_best_model."

    def _signed(self, score: float) -> float:
        return comparable(score if self.args.greater_is_better else -score)

    def _advice(self, start: float) -> str:
        if self.later is None:
            return "Train longer, or evaluate earlier (eval_steps, eval_delay)."
        if self._signed(self.later[0]) < self._signed(start):
            return (
                "Lower learning_rate. Where gain_set_psi in the log rose all the same, gain_dataset is too small, or "
                "unlike the set that chooses."
            )
        if (self.best or ())[:2] == (0, 0):
            return (
                "Classes without a hit hold it at 0, and no evaluation had fewer of them: raise learning_rate or "
                "max_steps, or begin with mean_recall, which every hit raises."
            )
        return "It did not move: raise learning_rate or max_steps."


def _shown(score: float) -> str:
    return f"{score:.4g}" if score > INFEASIBLE else f"infeasible by {score / INFEASIBLE - 1:.4g}"

"""What the evaluations of a run find: metrics of confusion counts, recalls that break ties, and what a card shows.

Shape suffix: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from selmix_hf.config import SelMixConfig
from selmix_hf.data.hub_ids import hub_ids
from selmix_hf.hub.card_results import SHOWN_PREFIXES
from selmix_hf.method.confusion import (
    ClassStatistics,
    confusion_counts,
    confusion_matrix,
    predicted_classes,
    require_all_classes,
)
from selmix_hf.method.objectives import Objective
from selmix_hf.method.ranking import ascending_recalls
from selmix_hf.reports.metrics import classification_metrics, counts_of, scores_of
from selmix_hf.training.sets import LEAVE_OUT

logger = logging.get_logger(__name__)

OF_ALL_CLASSES = ("psi", "selection_score")  # what an evaluation that leaves classes out lacks


class Evaluations:
    """Those of a run.

    Args:
        objective, args, class_names: of the run.
        train_counts: training samples of each class, K.

    Attributes:
        shown: logs of evaluations that a card may show, each with the "step" of its weights.
        recalls: `ranking.ascending_recalls` of the latest evaluation of each set, by the name of its selection score.
        prefix: of the metrics of the evaluation that is under way.
        hub_ids: of the set that was evaluated last under a prefix.
    """

    def __init__(
        self,
        objective: Objective,
        args: SelMixConfig,
        class_names: Sequence[str],
        train_counts: NDArray[np.integer],
    ) -> None:
        self.objective, self.args, self.class_names, self.train_counts = objective, args, class_names, train_counts
        self.shown: list[dict[str, Any]] = []
        self.recalls: dict[str, tuple[float, ...]] = {}
        self.prefix = "eval"
        self.hub_ids: dict[str, list[str]] = {}

    def begin(self, prefix: str, dataset: Any) -> None:
        """An evaluation of a dataset."""
        self.prefix, self.hub_ids[prefix] = prefix, hub_ids(dataset)

    def metrics(self, counts: Tensor, per_class: bool = False) -> dict[str, Any]:
        """All that is told of counts (K x K): psi, the score that chooses the checkpoint, the violation where there
        are constraints, and `classification_metrics`; of a set without some of the classes, where these are left out,
        the last alone.

        Raises:
            ValueError: a class without samples that is refused.
        """
        if self.args.absent_classes == "refuse":
            require_all_classes(counts.sum(1), self.class_names, f"the {self.prefix} set", LEAVE_OUT)
        report = classification_metrics(
            counts,
            class_prior=self.objective.class_prior if self.objective.constraints else "balanced",
            train_counts=self.train_counts,
            class_names=self.class_names,
            tail_share=self.args.tail_share,
            worst_share=self.args.worst_share,
            per_class=per_class,
            absent=self.args.absent_classes,
        )
        missing = [str(self.class_names[k]) for k in (counts.sum(1) == 0).nonzero().flatten().tolist()]
        if missing:
            named = f"{', '.join(missing[:5])}{', ...' * (len(missing) > 5)}"
            logger.warning_once(
                f"the {self.prefix} set has no sample of {len(missing)} of {len(counts)} classes ({named}): its "
                "numbers are of the others, without psi and selection_score, which are of all classes."
            )
            return report
        # the first under a name: a callback may look at another set before this one's score is compared
        self.recalls.setdefault(f"{self.prefix}_selection_score", ascending_recalls(counts))
        confusion_KK = confusion_matrix(counts, self.objective.class_prior)
        own = {"psi": float(self.objective.value(confusion_KK)), "selection_score": self.objective.score(counts)}
        if self.objective.constraints:
            own["violation"] = self.objective.violation(confusion_KK)
        return {**own, **report}

    def of_perfect(self, labels: NDArray[np.int64], per_class: bool) -> dict[str, Any]:
        """What would be measured in a run where all of a set with these labels (N) was classified rightly."""
        return self.metrics(torch.from_numpy(np.bincount(labels, minlength=len(self.class_names))).diag(), per_class)

    def beside(self, compute_metrics: Callable[..., Any], given: Any, per_class: bool) -> dict[str, Any]:
        """`metrics` of what Trainer gives a user's own function, and what that makes of it."""
        return {**self.metrics(counts_of(given, len(self.class_names)), per_class), **compute_metrics(given)}

    def of_statistics(self, statistics: ClassStatistics, per_class: bool) -> EvalLoopOutput:
        """What `evaluate` tells of a set: its loss and `metrics`, without predictions."""
        metrics = self._named(statistics.mean_loss, statistics.counts.cpu(), per_class)
        return EvalLoopOutput(np.empty(0), None, metrics, statistics.num_samples)

    def of_predictions(self, output: EvalLoopOutput, per_class: bool) -> EvalLoopOutput:
        """What Trainer's loop found, with the metrics of `evaluate` where it has none of them: without labels none.

        Raises:
            ValueError: logits without a largest one, see `confusion.predicted_classes`; labels as `confusion_counts`.
        """
        logits = scores_of(output.predictions)
        if logits is None:  # prediction_loss_only
            return output
        logits_NK, labels = torch.as_tensor(logits), output.label_ids
        classes_N = predicted_classes(logits_NK)
        if labels is None or f"{self.prefix}_mean_recall" in (output.metrics or {}):
            return output
        labels_N = torch.as_tensor(labels)
        counts_KK = confusion_counts(labels_N, classes_N, len(self.class_names))
        metrics = self._named(float(cross_entropy(logits_NK.float(), labels_N)), counts_KK, per_class)
        return EvalLoopOutput(output.predictions, output.label_ids, metrics, output.num_samples)

    def _named(self, loss: float, counts: Tensor, per_class: bool) -> dict[str, Any]:
        metrics = {"loss": loss, **self.metrics(counts, per_class)}
        return {f"{self.prefix}_{name}": value for name, value in metrics.items()}

    def remember(self, logs: dict[str, Any], step: int) -> None:
        """Keep what is logged for the card, if it is an evaluation that a card shows; `train` would forget it."""
        if any(f"{prefix}_mean_recall" in logs for prefix in SHOWN_PREFIXES):
            self.shown.append({**logs, "step": step})

    def forget(self, step: int) -> None:
        """Those of the weights of a step, which changed outside a run; that of the start stays, for the card."""
        self.shown = [logs for logs in self.shown if logs["step"] != step]

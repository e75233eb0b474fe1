"""Classes of unlabelled samples, as a model sees them: which are used, what is told of them, and the second set of the
pairs that they make.

Shape suffixes: N unlabelled samples, M labelled ones, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from datasets.fingerprint import Hasher
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset
from transformers.utils import logging

from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.features.stored import FeatureDataset, JoinedFeatures
from selmix_hf.method.draws import ClassIndex
from selmix_hf.models.averages import WeightAverage
from selmix_hf.training.passes import Passes
from selmix_hf.training.sets import Sets

logger = logging.get_logger(__name__)

NONE = -1  # the pseudo-label of a sample that is not used
_NAMED_CLASSES = 100  # beyond, the log would be all about the distribution


def choose(
    predicted: NDArray[np.integer], confidence: NDArray[np.floating], threshold: float = 0.0, share: float = 1.0
) -> NDArray[np.int64]:
    """Pseudo-labels (N): the predicted class where it is confident enough, else `NONE`.

    Args:
        predicted, confidence: most probable class and its probability, shape N.
        threshold: least confidence, as in FixMatch (Sohn et al. 2020, arXiv 2001.07685).
        share: of the samples predicted as a class so many are used, rounded up, the most confident ones: a threshold
            for each class (Zou et al. 2018, arXiv 1810.07911, equation 8), so that no class is lost to one threshold.
    """
    labels_N = np.where(confidence >= threshold, predicted, NONE).astype(np.int64)
    if share < 1:
        for k in np.unique(predicted):
            own = np.flatnonzero(predicted == k)
            order = np.argsort(-confidence[own], kind="stable")
            labels_N[own[order[math.ceil(share * len(own)) :]]] = NONE
    return labels_N


def second_labels(
    pseudo_labels: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int, views: int = 1
) -> NDArray[np.int64]:
    """Classes of the second set, V (N + M): all views of the unlabelled samples, then those of the labelled ones, that
    count for classes that no unlabelled sample has (all others are `NONE`)."""
    missing_K = np.bincount(pseudo_labels[pseudo_labels >= 0], minlength=num_classes) == 0
    fallback_M = np.where(missing_K[labels], labels, NONE)
    return np.concatenate([np.tile(pseudo_labels, views), np.tile(fallback_M, views)])


def pseudo_label_report(
    labels: NDArray[np.int64],
    before: NDArray[np.int64] | None,
    class_names: Sequence[str],
    truth: NDArray[np.integer] | None = None,
) -> dict[str, float]:
    """What is logged of new pseudo-labels (N).

    Args:
        labels: the new ones.
        before: those that they replace, or None at the start.
        class_names: K.
        truth: true classes (N), for analysis.

    Returns:
        pseudo_labels_used (share of the samples), pseudo_label_missing (classes that fall back to the labelled set);
        with `before` pseudo_label_agreement (among samples used both times); with `truth` pseudo_label_accuracy (among
        the used) and pseudo_label_worst_recall (of a true class, among all its samples); and for at most 100 classes
        "pseudo_labels/<name>", the number of samples.
    """
    used_N, num_classes = labels >= 0, len(class_names)
    counts_K = np.bincount(labels[used_N], minlength=num_classes)
    report = {"pseudo_labels_used": float(used_N.mean()), "pseudo_label_missing": float((counts_K == 0).sum())}
    if before is not None:
        both_N = used_N & (before >= 0)
        report["pseudo_label_agreement"] = _mean(labels[both_N] == before[both_N])
    if truth is not None:
        right_N = labels == truth
        report["pseudo_label_accuracy"] = _mean(right_N[used_N])
        report["pseudo_label_worst_recall"] = min(_mean(right_N[truth == k]) for k in np.unique(truth))
    if num_classes <= _NAMED_CLASSES:
        report |= {f"pseudo_labels/{name}": float(count) for name, count in zip(class_names, counts_K, strict=True)}
    return report


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan


class PseudoLabels:
    """The unlabelled set of a run: new pseudo-labels when their time has come, and the second samples by them.

    Args:
        sets: of the run; the labelled samples serve for classes that no pseudo-label has, and true classes, where they
            are given, are for the report and for `pseudo_label_source="oracle"`.
        passes: of the run.
        teacher: gives the pseudo-labels instead of the model; None for the model.

    Attributes:
        average: of the weights, where it gives the pseudo-labels.
    """

    def __init__(self, sets: Sets, passes: Passes, teacher: Callable[..., Any] | None = None) -> None:
        self.sets, self.passes, self.args, self.teacher = sets, passes, passes.args, teacher
        self.average: WeightAverage | None = None
        self._missing: list[str] | None = None

    def start_average(self, saved: Mapping[str, Tensor] | None = None) -> None:
        """Of the weights as they are, or as a checkpoint has it, where an average is wanted."""
        if self.args.pseudo_label_source == "ema":
            named = self.passes.model.named_parameters()
            trained = {name: parameter for name, parameter in named if parameter.requires_grad}
            self.average = WeightAverage(lambda: trained)
            if saved is not None:
                self.average.load(saved)

    def labels_at(self, step: int, old: Tensor | None, log: Callable[[dict[str, Any]], None], warn: bool) -> Tensor:
        """Those of the period that begins, N: the old ones, or where their time is over those of the current weights.

        Args:
            step: of the weights.
            old: those of the period that ends; None at the start.
            log: takes what is told of new ones.
            warn: whether this process says which classes nobody is used as, where that changed.
        """
        if old is not None and step % self.args.pseudo_label_steps:
            return old
        if self.args.pseudo_label_source == "oracle":
            labels_N = np.asarray(self.sets.truth, np.int64)
        else:
            labels_N = choose(*self._predictions(), self.args.pseudo_label_threshold, self.args.pseudo_label_share)
        before_N, class_names = None if old is None else old.numpy(), self.sets.class_names
        log(pseudo_label_report(labels_N, before_N, class_names, self.sets.truth))
        counts_K = np.bincount(labels_N[labels_N >= 0], minlength=len(class_names))
        names = [class_names[k] for k in np.flatnonzero(counts_K == 0)]
        news, self._missing = names != self._missing, names
        if names and news and warn:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            logger.warning(f"step {step}: no unlabelled sample is used as {shown}; the labelled set serves for them.")
        return torch.from_numpy(labels_N)

    def _predictions(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        dataset: Any = self.sets.unlabeled
        if self.args.freeze_backbone and self.teacher is None:
            dataset = self.passes.stored(dataset)
        collator = self.passes.collator.eval_collator
        weights = nullcontext() if self.average is None else self.average.in_place()
        with weights, isolated_random_state(self.passes.seed):
            classes, confidence = self.passes.look.predictions(dataset, collator, self.teacher)
        return classes.numpy(), confidence.numpy()

    def second_set(self) -> Dataset[Any]:
        """Unlabelled samples, then the labelled ones."""
        parts: list[Any] = [self.sets.unlabeled, self.sets.train]
        return ConcatDataset(parts)

    def second_features(self, first: FeatureDataset) -> JoinedFeatures:
        """The stored views of `second_set`, in the order of `second_labels`; `first` are those of the labelled set."""
        collator, dataset = self.passes.collator, self.sets.unlabeled
        if not self.passes.random_views and _alike(collator.collator, collator.eval_collator):
            return JoinedFeatures(self.passes.stored(dataset), first)
        views = self.passes.views_of(dataset)
        return JoinedFeatures(FeatureDataset(views, np.zeros(len(views[0]), np.int64)), first)

    def second_index(self, pseudo_labels: Tensor, views: int = 1) -> ClassIndex:
        """The samples of each class in the second set."""
        labelled = self.sets.train_labels, self.sets.num_classes
        return ClassIndex(second_labels(pseudo_labels.numpy(), *labelled, views), self.sets.num_classes)


def _alike(first: Any, second: Any) -> bool:
    try:
        return bool(Hasher.hash(first) == Hasher.hash(second))
    except Exception:  # what cannot be pickled is not compared, and its features are computed twice
        return False


def prepared_teacher(teacher: Any, device: torch.device) -> Any:
    """A module on the device and in evaluation mode; any other callable as it is."""
    return teacher.to(device).eval() if isinstance(teacher, nn.Module) else teacher

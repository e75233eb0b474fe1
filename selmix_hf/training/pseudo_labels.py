"""Classes of unlabelled samples, as a model sees them: which of them are used, and what is told of them.

Shape suffixes: N unlabelled samples, M labelled ones, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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

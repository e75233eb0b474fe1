"""How sure a difference between two classifiers on one test set is.

Shape suffixes: N samples, K classes, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from selmix_hf.method.confusion import require_all_classes
from selmix_hf.reports.registry import METRICS, Rates, class_groups

_AT_ONCE = 2**20  # samples of resampled test sets


def paired_bootstrap(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    num_classes: int,
    num_resamples: int = 1000,
    seed: int = 0,
    train_counts: Sequence[int] | NDArray[np.integer] | None = None,
    tail_share: float = 0.1,
    worst_share: float = 0.1,
) -> dict[str, tuple[float, float, float]]:
    """How certain the change of each metric is, as far as the choice of test samples goes.

    Samples are drawn again with replacement within each class, and the same draw serves both sides and every seed.
    The spread over training seeds is not in the interval.

    Args:
        labels: true classes, shape N.
        before, after: predicted classes, S x N, or N for one seed.
        num_classes: K.
        train_counts, tail_share: see `registry.class_groups`; with them there are intervals for groups too.
        worst_share: of the classes, see `minimum.worst_share_mean`.

    Returns:
        for each of `registry.METRICS` that recalls and coverages tell: the change averaged over seeds, and the ends of
        its 95% percentile interval.

    Raises:
        ValueError: a class has no sample.
    """
    labels_N = np.asarray(labels)
    order_N = np.argsort(labels_N, kind="stable")
    counts_K = np.bincount(labels_N, minlength=num_classes)
    require_all_classes(torch.as_tensor(counts_K), where="the test set")
    sides = [np.atleast_2d(np.asarray(side))[:, order_N] for side in (before, after)]
    labels_N = labels_N[order_N]
    first_N = np.repeat(np.cumsum(counts_K) - counts_K, counts_K)  # where the sample's class begins
    random = np.random.default_rng(seed)
    groups = {} if train_counts is None else class_groups(train_counts, tail_share)

    def changes(rows_RN: np.ndarray) -> dict[str, np.ndarray]:
        before, after = (
            [_metrics(labels_N, predicted_N[rows_RN], counts_K, groups, worst_share) for predicted_N in side_SN]
            for side_SN in sides
        )
        return {
            name: np.mean([a[name] - b[name] for a, b in zip(after, before, strict=True)], 0) for name in before[0]
        }

    observed = {name: float(change[0]) for name, change in changes(np.arange(len(labels_N))[None]).items()}
    at_once = max(1, _AT_ONCE // len(labels_N))
    resampled = [
        changes(first_N + random.integers(0, counts_K[labels_N], (min(at_once, num_resamples - done), len(labels_N))))
        for done in range(0, num_resamples, at_once)
    ]
    intervals = {}
    for name, change in observed.items():
        low, high = np.quantile(np.concatenate([changed[name] for changed in resampled]), [0.025, 0.975])
        intervals[name] = (change, float(low), float(high))
    return intervals


def _metrics(
    labels_N: np.ndarray,
    predicted_RN: np.ndarray,
    counts_K: np.ndarray,
    groups: Mapping[str, Tensor],
    worst_share: float,
) -> dict[str, np.ndarray]:
    """Of R draws of samples sorted by class, shape R each, from hits and predictions a class: no K x K matrix."""
    num_classes, starts_K = len(counts_K), np.cumsum(counts_K) - counts_K
    recall_RK = np.add.reduceat(predicted_RN == labels_N, starts_K, axis=1, dtype=np.int64) / counts_K
    of_draw_R1 = num_classes * np.arange(len(predicted_RN))[:, None]
    weight_RN = np.broadcast_to(1 / counts_K[labels_N], predicted_RN.shape)
    coverage_P = np.bincount((predicted_RN + of_draw_R1).ravel(), weight_RN.ravel(), len(predicted_RN) * num_classes)
    coverage_RK = torch.from_numpy(coverage_P.reshape(-1, num_classes))
    rates = Rates(torch.from_numpy(recall_RK), coverage_RK, worst_share, groups)
    values_R = {name: metric.of(rates) for name, metric in METRICS.items()}
    return {name: value_R.double().numpy() for name, value_R in values_R.items() if value_R is not None}

"""From the distribution P over class pairs to class pairs, and from classes to their samples.

torch.multinomial stops at 2^24 categories (K = 4096), hence the row is drawn from its marginal and the column from its
row. Shape suffixes: K classes, N samples, M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_AT_ONCE = 2**18  # pairs of classes, so that what is in between stays in the processor's cache


def draw_class_pairs(probability: Tensor, num_pairs: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw (row, column) class pairs from P.

    Args:
        probability: P, K x K.
        num_pairs: M.
        generator: source of randomness.

    Returns:
        int64, M x 2.
    """
    row_uniform_M, column_uniform_M = generator.random((2, num_pairs))
    table_KK = probability.detach().cpu()
    rows_at_once = max(1, _AT_ONCE // len(table_KK))
    row_sum_K = torch.cat([rows_RK.double().sum(1) for rows_RK in torch.split(table_KK, rows_at_once)])
    rows_M = _invert(row_sum_K.numpy()[None], np.zeros(num_pairs, int), row_uniform_M)
    columns_M = np.empty_like(rows_M)
    drawn_rows = np.unique(rows_M)
    order_M = np.argsort(rows_M, kind="stable")
    ends = np.searchsorted(rows_M[order_M], drawn_rows, side="right")
    for start in range(0, len(drawn_rows), rows_at_once):
        rows_R = drawn_rows[start : start + rows_at_once]
        first = ends[start - 1] if start else 0
        these_M = order_M[first : ends[start + len(rows_R) - 1]]
        local_M = np.searchsorted(rows_R, rows_M[these_M])
        columns_M[these_M] = _invert(table_KK[rows_R].numpy(), local_M, column_uniform_M[these_M])
    return np.stack([rows_M, columns_M], 1)


def _invert(
    weights_RK: NDArray[np.floating], row_M: NDArray[np.integer], uniform_M: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Inverse of each row's cumulative distribution; a weight of zero is never drawn."""
    num_columns = weights_RK.shape[1]
    cumulative = np.cumsum(weights_RK, dtype=np.float64)  # over rows laid end to end: one search serves all of them
    end_R = cumulative[num_columns - 1 :: num_columns]
    begin_R = np.concatenate([[0.0], end_R[:-1]])
    target_M = begin_R[row_M] + uniform_M * (end_R - begin_R)[row_M]
    drawn_M: NDArray[np.int64] = np.searchsorted(cumulative, target_M, side="right") - row_M * num_columns
    for m in np.flatnonzero(drawn_M >= num_columns):  # rounding of the target may reach the row's end
        drawn_M[m] = np.flatnonzero(weights_RK[row_M[m]])[-1]
    return drawn_M.astype(np.int64)


def largest_repeat(
    probability: Tensor,
    class_counts: NDArray[np.integer],
    num_pairs: int,
    second_counts: NDArray[np.integer] | None = None,
) -> float:
    """How often a sample of the most overdrawn class is expected to be drawn among `num_pairs` pairs; the second
    samples come from the same set where no `second_counts` are given."""
    first_K, second_K = (probability.sum(axis).cpu().numpy() * num_pairs for axis in (1, 0))
    if second_counts is None:
        return float(((first_K + second_K) / np.maximum(class_counts, 1)).max())
    sides = (first_K, class_counts), (second_K, second_counts)
    return max(float((draws_K / np.maximum(counts_K, 1)).max()) for draws_K, counts_K in sides)


class ClassIndex:
    """The sample indices of each class, for uniform draws within a class.

    Args:
        labels: integers in 0..K-1, shape N; -1 for a sample that is never drawn.
        num_classes: K.
    """

    def __init__(self, labels: Sequence[int] | NDArray[np.integer] | Tensor, num_classes: int) -> None:
        labels_N: NDArray[np.integer] = np.asarray(labels)
        if labels_N.size and not -1 <= labels_N.min() <= labels_N.max() < num_classes:
            raise ValueError(f"labels must lie in 0..{num_classes - 1}, found {labels_N.min()}..{labels_N.max()}.")
        self.counts = np.bincount(labels_N[labels_N >= 0], minlength=num_classes)
        self._order_N = np.argsort(labels_N, kind="stable")
        self._starts_K: NDArray[np.int64] = len(labels_N) - self.counts.sum() + np.cumsum(self.counts) - self.counts

    def draw(self, classes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """One uniform sample index for each entry of `classes` (shape M), each of a class that has samples."""
        counts_M = self.counts[classes]
        if not counts_M.all():
            raise ValueError(f"class {int(classes[counts_M == 0][0])} was drawn but has no sample.")
        return self._order_N[self._starts_K[classes] + (generator.random(len(classes)) * counts_M).astype(np.int64)]


def reuse_samples(classes: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """For each pair, the pair of its batch whose first sample can be its second one.

    Every first sample serves once at most, never its own pair. Only classes decide: the two samples of a pair stay
    independent and uniform in their classes, as without reuse. Pairs of a batch are no longer independent of each
    other, so the gradient has the same mean and a somewhat larger variance.

    Args:
        classes: M x 2.
        batch_size: consecutive pairs that make a batch.

    Returns:
        numbers of pairs, shape M; -1 where there is none.
    """
    taken_M = np.full(len(classes), -1)
    for start in range(0, len(classes), batch_size):
        first_B, second_B = classes[start : start + batch_size].T
        for k in np.intersect1d(first_B, second_B):
            givers, takers = np.flatnonzero(first_B == k), np.flatnonzero(second_B == k)
            number = min(len(givers), len(takers))
            givers, takers = np.roll(givers, -1)[:number], takers[:number]
            apart = givers != takers
            taken_M[start + takers[apart]] = start + givers[apart]
    return taken_M

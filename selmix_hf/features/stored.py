"""The frozen-backbone path: pooled features computed once, and the model run on them instead of on raw inputs.

Shape suffixes: N samples, V views, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

FEATURES = "pooled_features"
_FEATURES_AT_ONCE = 4096  # samples


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Stored features with their labels; several augmented views of a sample count as samples of their own.

    Args:
        features: N x D, V x N x D, or V tensors N x D, which may be memory-mapped and of any floating dtype.
        labels: integers, shape N.
    """

    def __init__(
        self, features: Tensor | Sequence[Tensor], labels: Sequence[int] | NDArray[np.integer] | Tensor
    ) -> None:
        labels_N = torch.as_tensor(labels)
        self.views = [features] if isinstance(features, Tensor) and features.ndim == 2 else list(features)
        if any(len(view_ND) != len(labels_N) for view_ND in self.views):
            found = [tuple(view_ND.shape) for view_ND in self.views]
            raise ValueError(f"{len(labels_N)} labels do not fit features of shape {found}.")
        self.labels = labels_N.repeat(len(self.views))
        self._class_sums: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {FEATURES: self.take([index])[0], "labels": self.labels[index]}

    def take(self, rows: Sequence[int] | Tensor | slice) -> Tensor:
        """Features of the rows, float32; a slice of a single view is not copied."""
        if isinstance(rows, slice):
            if len(self.views) == 1:
                return self.views[0][rows].float()
            rows = range(len(self))[rows]
        rows = torch.as_tensor(rows)
        if len(self.views) == 1:
            return self.views[0].index_select(0, rows).float()
        view, row = rows // len(self.views[0]), rows % len(self.views[0])
        features_ND = torch.empty(len(rows), self.views[0].shape[1])
        for v in torch.unique(view).tolist():
            features_ND[view == v] = self.views[v].index_select(0, row[view == v]).float()
        return features_ND

    def class_sums(self, num_classes: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Sums of the features of each class over the rows of a process, float64, K x D; computed once, since neither
        features nor rows change during a run."""
        if self._class_sums is None:
            self._class_sums = torch.zeros(num_classes, self.views[0].shape[1], dtype=torch.float64)
            for rows in row_chunks(len(self), rank, world_size):
                self._class_sums.index_add_(0, self.labels[rows].long(), self.take(rows).double())
        return self._class_sums


def row_chunks(num_rows: int, rank: int, world_size: int) -> Iterator[slice]:
    """The rows of a process, some thousand at a time."""
    step = _FEATURES_AT_ONCE * world_size
    return (slice(start, min(start + step, num_rows), world_size) for start in range(rank, num_rows, step))


class JoinedFeatures:
    """The rows of two `FeatureDataset`s, one behind the other."""

    def __init__(self, first: FeatureDataset, second: FeatureDataset) -> None:
        self.first, self.second = first, second

    def take(self, rows: Sequence[int]) -> Tensor:
        """Features of the rows, float32."""
        rows_R = torch.as_tensor(rows)
        in_first_R = rows_R < len(self.first)
        features_RD = torch.empty(len(rows_R), self.first.views[0].shape[1])
        features_RD[in_first_R] = self.first.take(rows_R[in_first_R])
        features_RD[~in_first_R] = self.second.take(rows_R[~in_first_R] - len(self.first))
        return features_RD


class FeaturePairs(Dataset[Any]):
    """A `FeatureDataset` indexed by lists of `pairs.Pair`, which gives whole batches as `SelMixCollator` does.

    Args:
        dataset: of the first samples.
        second: of the second samples; default the same.
    """

    def __init__(self, dataset: FeatureDataset, second: JoinedFeatures | None = None) -> None:
        self.dataset, self.second = dataset, second

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, pairs: Sequence[tuple[Any, ...]]) -> dict[str, Tensor]:
        first, second, coefficient, *_ = zip(*pairs, strict=True)
        if self.second is None:
            features = self.dataset.take(first + second)
        else:
            features = torch.cat([self.dataset.take(first), self.second.take(second)])
        return {
            FEATURES: features,
            "labels": self.dataset.labels[list(first)],
            "mixing_coefficient": torch.tensor(coefficient, dtype=torch.float32),
        }


class FeatureSamples(Dataset[Any]):
    """A `FeatureDataset` indexed by lists of (row, seed), which gives whole batches; a stored view needs no seed."""

    def __init__(self, dataset: FeatureDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        rows = [row for row, _ in draws]
        return {FEATURES: self.dataset.take(rows), "labels": self.dataset.labels[rows]}

"""Samples with the seed of what is random in them, so that views do not depend on batches, workers or processes.

Shape suffix: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from selmix_hf.data.bad_images import read, read_one
from selmix_hf.data.random_state import isolated_random_state


class SeededExample(NamedTuple):
    """A sample with the seed of its random transform; what a `SeededDataset` or `DrawnSamples` gives and
    `SelMixCollator` takes."""

    sample: Any
    seed: int


class ChangedItems(Dataset[Any]):
    """A map-style dataset with a change to each of its items; a subclass says which, in `changed`.

    Args:
        dataset: its `format` stays, which says whether it has a transform of its own.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.format = dataset, getattr(dataset, "format", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.changed(read_one(self.dataset, index))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return list(map(self.changed, fetch(self.dataset, indices)))

    def changed(self, item: Any) -> Any:
        raise NotImplementedError


class SeededDataset(Dataset[SeededExample]):
    """Every sample of a dataset once, each with a seed of its own: the same views for any batches and workers.

    Args:
        dataset: a map-style dataset.
        seed: numbers that fix the seeds.
    """

    def __init__(self, dataset: Any, seed: Sequence[int]) -> None:
        self.dataset = dataset
        self._seeds_N = np.random.default_rng(list(seed)).integers(2**31, size=len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> SeededExample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[SeededExample]:
        seeds = self._seeds_N[list(indices)].tolist()
        return list(map(SeededExample, fetch(self.dataset, indices, seeds), seeds))


class DrawnSamples(Dataset[SeededExample]):
    """A map-style dataset indexed by (index, seed), the draws of a `weighted.WeightedSampler`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: tuple[int, int]) -> SeededExample:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> list[SeededExample]:
        indices, seeds = zip(*draws, strict=True)
        return list(map(SeededExample, fetch(self.dataset, indices, seeds), seeds))


def fetch(dataset: Any, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Sequence[Any]:
    """The samples at the indices: in one call where the dataset can and has no transform of its own, which may be
    random; else one by one, each under its seed.

    Raises:
        BadImageError: an image among them cannot be decoded.
    """
    form = getattr(dataset, "format", None)
    own_transform = not isinstance(form, dict) or form["type"] == "custom"
    if hasattr(dataset, "__getitems__") and not (own_transform and seeds):
        return read(dataset, indices)
    samples = []
    for index, seed in zip(indices, seeds or [0] * len(indices), strict=True):
        with isolated_random_state(seed):
            samples.append(read_one(dataset, index))
    return samples

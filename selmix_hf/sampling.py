"""From the distribution P over class pairs to pairs of dataset indices, the same for any number of processes.

Every draw of a period comes from (seed, period): nothing is read from or written to the global random state, so a
resumed run, a prefetching loader and every process see the same sequence. torch.multinomial stops at 2^24 categories
(K = 4096), hence the row is drawn from its marginal and the column from its row.

Shape suffixes: K classes, N samples, M pairs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

_AT_ONCE = 2**18  # pairs of classes, so that what is in between stays in the processor's cache


class Pair(NamedTuple):
    """One draw: sample `first` keeps its label, and the mix is coefficient * first + (1 - coefficient) * second, which
    was drawn as one of `second_class`."""

    first: int
    second: int
    coefficient: float
    first_seed: int
    second_seed: int
    second_class: int = -1


class PairExample(NamedTuple):
    """The two samples behind a `Pair`; what a `PairDataset` gives and `SelMixCollator` takes."""

    first: Any
    second: Any
    pair: Pair


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
    row_sum_K = torch.cat([rows_RK.double().sum(1) for rows_RK in table_KK.split(rows_at_once)])
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


def _invert(weights_RK: NDArray, row_M: NDArray, uniform_M: NDArray) -> NDArray[np.int64]:
    """Inverse of each row's cumulative distribution; a weight of zero is never drawn."""
    num_columns = weights_RK.shape[1]
    cumulative = np.cumsum(weights_RK, dtype=np.float64)  # over rows laid end to end: one search serves all of them
    end_R = cumulative[num_columns - 1 :: num_columns]
    begin_R = np.concatenate([[0.0], end_R[:-1]])
    target_M = begin_R[row_M] + uniform_M * (end_R - begin_R)[row_M]
    drawn_M = np.searchsorted(cumulative, target_M, side="right") - row_M * num_columns
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
        labels_N = np.asarray(labels)
        if labels_N.size and not -1 <= labels_N.min() <= labels_N.max() < num_classes:
            raise ValueError(f"labels must lie in 0..{num_classes - 1}, found {labels_N.min()}..{labels_N.max()}.")
        self.counts = np.bincount(labels_N[labels_N >= 0], minlength=num_classes)
        self._order_N = np.argsort(labels_N, kind="stable")
        self._starts_K = len(labels_N) - self.counts.sum() + np.cumsum(self.counts) - self.counts

    def draw(self, classes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """One uniform sample index for each entry of `classes` (shape M), each of a class that has samples."""
        counts_M = self.counts[classes]
        if not counts_M.all():
            raise ValueError(f"class {int(classes[counts_M == 0][0])} was drawn but has no sample.")
        return self._order_N[self._starts_K[classes] + (generator.random(len(classes)) * counts_M).astype(np.int64)]


class PairSampler(Sampler[Pair]):
    """The pairs of one period.

    Args:
        first_index, second_index: the samples of each class in the two sets; the second may be a function that gives
            them when a period begins, as pseudo-labels change.
        get_probability: gives the current P (K x K) when a period's iteration begins.
        get_period: gives the number of the period; with `seed` it fixes every draw. Default: iterations begun so far.
        num_pairs: length of a period.
        beta_min: the mixing coefficient is uniform on [beta_min, 1].
        seed: of the run.
        reuse_within: pairs of a batch, for `reuse_samples`; default none. Both sets must be the same.

    Raises:
        ValueError: beta_min outside [0, 1].
    """

    def __init__(
        self,
        first_index: ClassIndex,
        second_index: ClassIndex | Callable[[], ClassIndex],
        get_probability: Callable[[], Tensor],
        num_pairs: int,
        get_period: Callable[[], int] | None = None,
        beta_min: float = 0.6,
        seed: int = 0,
        reuse_within: int | None = None,
    ) -> None:
        if not 0 <= beta_min <= 1:
            raise ValueError(f"beta_min must lie in [0, 1], found {beta_min}.")
        self.first_index, self.second_index = first_index, second_index
        self.get_probability, self.get_period = get_probability, get_period
        self.num_pairs, self.beta_min, self.seed = num_pairs, beta_min, seed
        self.reuse_within = reuse_within
        self._iterations = 0

    def __len__(self) -> int:
        return self.num_pairs

    def __iter__(self) -> Iterator[Pair]:
        columns = self.draw()
        self._iterations += 1
        return map(Pair._make, zip(*(column.tolist() for column in columns), strict=True))

    def draw(self) -> tuple[NDArray, ...]:
        """The period's pairs as the columns of `Pair`, each of shape M."""
        period = self._iterations if self.get_period is None else self.get_period()
        generator = np.random.default_rng([self.seed, period])
        classes_M2 = draw_class_pairs(self.get_probability(), self.num_pairs, generator)
        first_M = self.first_index.draw(classes_M2[:, 0], generator)
        second_index = self.second_index if isinstance(self.second_index, ClassIndex) else self.second_index()
        second_M = second_index.draw(classes_M2[:, 1], generator)
        coefficient_M = generator.uniform(self.beta_min, 1, self.num_pairs)
        seeds_2M = generator.integers(2**31, size=(2, self.num_pairs))
        if self.reuse_within is not None:
            taken_M = reuse_samples(classes_M2, self.reuse_within)
            known_M = taken_M >= 0
            second_M[known_M], seeds_2M[1][known_M] = first_M[taken_M[known_M]], seeds_2M[0][taken_M[known_M]]
        return first_M, second_M, coefficient_M, seeds_2M[0], seeds_2M[1], classes_M2[:, 1]


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


class PairDataset(Dataset[PairExample]):
    """A map-style dataset indexed by `Pair`.

    Args:
        first: the labelled set that x1 comes from.
        second: the set that x2 comes from; default the same.
        reuse: whether a sample that a batch holds twice, under the same seed, is fetched once.
    """

    def __init__(self, first: Any, second: Any = None, reuse: bool = False) -> None:
        self.first, self.second = first, first if second is None else second
        self.reuse = reuse

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, pair: Pair) -> PairExample:
        return self.__getitems__([pair])[0]

    def __getitems__(self, pairs: Sequence[Pair]) -> list[PairExample]:
        firsts = fetch(self.first, [pair.first for pair in pairs], [pair.first_seed for pair in pairs])
        if self.reuse:
            known = {(pair.first, pair.first_seed): sample for pair, sample in zip(pairs, firsts, strict=True)}
            others = [pair for pair in pairs if (pair.second, pair.second_seed) not in known]
            fresh = iter(fetch(self.second, [pair.second for pair in others], [pair.second_seed for pair in others]))
            keys = [(pair.second, pair.second_seed) for pair in pairs]
            seconds: Sequence[Any] = [known[key] if key in known else next(fresh) for key in keys]
        else:
            seconds = fetch(self.second, [pair.second for pair in pairs], [pair.second_seed for pair in pairs])
        return [PairExample(*parts) for parts in zip(firsts, seconds, pairs, strict=True)]


class SeededExample(NamedTuple):
    """A sample with the seed of its random transform; what a `SeededDataset` or `DrawnSamples` gives and
    `SelMixCollator` takes."""

    sample: Any
    seed: int


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
    """A map-style dataset indexed by (index, seed), the draws of a `weighted_sampling.WeightedSampler`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: tuple[int, int]) -> SeededExample:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> list[SeededExample]:
        indices, seeds = zip(*draws, strict=True)
        return list(map(SeededExample, fetch(self.dataset, indices, seeds), seeds))


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Inside, `random`, `numpy.random` and torch's CPU generator start from the seed; after it they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def fetch(dataset: Any, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Sequence[Any]:
    """The samples at the indices: in one call where the dataset can and has no transform of its own, which may be
    random; else one by one, each under its seed."""
    form = getattr(dataset, "format", None)
    own_transform = not isinstance(form, dict) or form["type"] == "custom"
    if hasattr(dataset, "__getitems__") and not (own_transform and seeds):
        return dataset.__getitems__(list(indices))
    samples = []
    for index, seed in zip(indices, seeds or [0] * len(indices), strict=True):
        with isolated_random_state(seed):
            samples.append(dataset[index])
    return samples

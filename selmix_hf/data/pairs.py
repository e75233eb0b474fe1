"""From the distribution P over class pairs to pairs of dataset indices, the same for any number of processes.

Every draw of a period comes from (seed, period): nothing is read from or written to the global random state, so a
resumed run, a prefetching loader and every process see the same sequence.

Shape suffixes: K classes, N samples, M pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from selmix_hf.data.seeded import fetch
from selmix_hf.method.draws import ClassIndex, draw_class_pairs, reuse_samples


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

    def draw(self) -> tuple[NDArray[np.number], ...]:
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

"""Single samples drawn by weight, such as the same number of each class, the same for any number of processes.

Every process draws the same sequence from (seed, epoch), and accelerate gives batch i of it to process i mod W: over
all processes a step sees exactly what one process with the same global batch would. Nothing is read from or written
to the global random state, so a resumed run goes on with the same samples.

Shape suffixes: K classes, N samples, M draws.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

POWERS = {"natural": 1.0, "square_root": 0.5, "class_balanced": 0.0}
SAMPLE_WEIGHTS = "sample_weights"  # in the place of `sampling`, where every sample has a weight of its own
_IN_WORDS = {
    "natural": "every sample as often as any other",
    "square_root": "classes by the square root of their size",
    "class_balanced": "every class as often as any other",
    SAMPLE_WEIGHTS: "each by a weight of its own",
}


def checked_sampling(sampling: Any) -> str | list[float]:
    """`sampling` as it goes into JSON: a name, a power as a string, or a list of class weights.

    Args:
        sampling: "natural", "square_root", "class_balanced", a power in [0, 1], K weights, or either of the last two
            as a string.

    Raises:
        ValueError: anything else, or weights that are negative, not finite, or all zero.
    """
    if isinstance(sampling, str) and sampling.lstrip().startswith("["):
        try:
            sampling = [float(weight) for weight in json.loads(sampling)]
        except (TypeError, ValueError) as error:
            raise ValueError(f"sampling must be JSON such as '[1, 1, 2]', found {sampling!r}.") from error
    if not isinstance(sampling, bool) and isinstance(sampling, str | Real):
        if sampling in POWERS:
            return str(sampling)
        if not 0 <= _number(sampling) <= 1:
            raise ValueError(
                f"sampling must be one of {', '.join(POWERS)}, a power between 0 and 1, or K class weights, found "
                f"{sampling!r}."
            )
        return str(_number(sampling))
    weights: list[float] = _checked_weights(sampling, "sampling", "class").tolist()
    return weights


def class_shares(sampling: Any, class_counts: ArrayLike) -> NDArray[np.float64]:
    """The share of the draws that each class gets, K, sums to 1.

    With a power q the share of class k is n_k^q / sum_j n_j^q (Kang et al. 2020, arXiv 1910.09217, equation 1):
    "natural" is q = 1, "square_root" q = 1/2 (Mahajan et al. 2018, arXiv 1805.00932), "class_balanced" q = 0. A class
    without samples gets nothing.

    Args:
        sampling: as for `checked_sampling`.
        class_counts: n, samples of each class, K.

    Raises:
        ValueError: as `checked_sampling`; weights of another number than K; a positive one of a class without samples.
    """
    checked, counts_K = checked_sampling(sampling), np.asarray(class_counts)
    weight_K: NDArray[np.float64]
    if isinstance(checked, str):
        power = POWERS.get(checked)
        weight_K = counts_K.astype(float) ** (float(checked) if power is None else power) * (counts_K > 0)
    else:
        weight_K = np.asarray(checked)
        if len(weight_K) != len(counts_K):
            raise ValueError(
                f"sampling must have one weight a class, {len(counts_K)}, found {len(weight_K)}: weights of samples "
                "are another argument, sample_weights."
            )
        empty = np.flatnonzero((weight_K > 0) & (counts_K == 0))
        if empty.size:
            raise ValueError(
                f"sampling gives class {empty[0]} the weight {weight_K[empty[0]]:g}, but it has no training samples: "
                "set it to 0, or add some."
            )
    return weight_K / float(weight_K.sum())


def sampling_weights(
    sampling: Any, labels: ArrayLike, num_classes: int | None = None, sample_weights: Any = None
) -> NDArray[np.float64]:
    """The weight of each sample, N, for a `WeightedSampler`: the share of its class, spread evenly over the class.

    Args:
        sampling: as for `checked_sampling`.
        labels: classes in 0..K-1, N.
        num_classes: K; default the largest label and one.
        sample_weights: N weights that are taken instead of `sampling`; none is negative, all are finite.

    Raises:
        ValueError: as `class_shares`; other weights than one for each sample.
    """
    labels_N: NDArray[np.int64] = np.asarray(labels)
    if sample_weights is not None:
        weight_N = _checked_weights(sample_weights, "sample_weights", "sample")
        if len(weight_N) != len(labels_N):
            raise ValueError(
                f"sample_weights must have one weight a training sample, {len(labels_N)}, found {len(weight_N)}: "
                "weights of classes are another option, sampling."
            )
        return weight_N
    counts_K = np.bincount(labels_N, minlength=num_classes or 0)
    return (class_shares(sampling, counts_K) / np.maximum(counts_K, 1))[labels_N]


def in_words(sampling: str | Sequence[float]) -> str:
    """How samples are drawn, to stand behind "drawn:"."""
    if not isinstance(sampling, str):
        return "classes by given weights"
    return _IN_WORDS.get(sampling) or f"classes by their size to the power {sampling}"


def identity(sampling: str | Sequence[float] | None, sample_weights: NDArray[np.float64] | None = None) -> str:
    """What a resumed run must share, short: the name or power, or a digest of the weights that were given; "pairs"
    without a `sampling`."""
    if sampling is None:
        return "pairs"
    given = sample_weights if sampling == SAMPLE_WEIGHTS else None if isinstance(sampling, str) else sampling
    if given is None:
        return str(sampling)
    kind = SAMPLE_WEIGHTS if sampling == SAMPLE_WEIGHTS else "class weights"
    return f"{kind} {hashlib.sha256(np.asarray(given, '<f8').tobytes()).hexdigest()[:12]}"


class WeightedSampler(Sampler[Any]):
    """Samples drawn with replacement, each as often as its weight says, in an order that is the same everywhere.

    For a `DataLoader` in a loop of one's own or through `accelerator.prepare`, which shards it; `SelMixTrainer` and
    `Stage1Trainer` use it where `sampling` says so.

    Args:
        weights: N, not negative, need not sum to 1; see `sampling_weights`.
        num_draws: length M of an epoch; default N. A multiple of the global batch, the samples of an optimizer step
            over all processes, leaves no step unfilled.
        get_epoch: gives the number of the epoch when its iteration begins; with `seed` it fixes every draw. In a
            Trainer, `lambda: int(trainer.state.epoch or 0)`: a `set_epoch` would not be called in a run that is
            resumed on several processes. Default: iterations begun so far.
        seed: of the run.
        with_seeds: give (index, seed of the sample's random transform), for `seeded.DrawnSamples`, instead of the
            index alone.

    Raises:
        ValueError: weights that are negative, not finite, all zero, or none.
    """

    def __init__(
        self,
        weights: ArrayLike,
        num_draws: int | None = None,
        get_epoch: Callable[[], int] | None = None,
        seed: int = 0,
        with_seeds: bool = False,
    ) -> None:
        weight_N = _checked_weights(weights, "weights", "sample")
        self._edges_N = np.cumsum(weight_N / weight_N.sum())
        self._last = int(np.flatnonzero(weight_N)[-1])
        self.num_draws = len(weight_N) if num_draws is None else num_draws
        self.get_epoch, self.seed, self.with_seeds = get_epoch, seed, with_seeds
        self._iterations = 0

    def __len__(self) -> int:
        return self.num_draws

    def __iter__(self) -> Iterator[Any]:
        index_M, seed_M = self.draw()
        self._iterations += 1
        if self.with_seeds:
            return zip(index_M.tolist(), seed_M.tolist(), strict=True)
        return iter(index_M.tolist())

    def draw(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's indices and seeds, M each."""
        epoch = self._iterations if self.get_epoch is None else self.get_epoch()
        generator = np.random.default_rng([self.seed, epoch])
        target_M = generator.random(self.num_draws) * self._edges_N[-1]
        # the first edge above the target is never that of a weight of zero; rounding may reach the last edge
        index_M = np.searchsorted(self._edges_N, target_M, side="right").clip(max=self._last)
        return index_M, generator.integers(2**31, size=self.num_draws)


def _number(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _checked_weights(weights: Any, name: str, of: str) -> NDArray[np.float64]:
    """As float64.

    Raises:
        ValueError: not a list of numbers, or a negative one, one that is not finite, or no positive one.
    """
    expected = f"{name} must hold a number a {of}, none negative and one positive at least"
    try:
        weights_N = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, found {weights!r:.80}.") from error
    if weights_N.ndim != 1 or not weights_N.size:
        raise ValueError(f"{expected}, found {weights!r:.80} of shape {list(weights_N.shape)}.")
    wrong = np.flatnonzero(~((weights_N >= 0) & np.isfinite(weights_N)))
    if wrong.size:
        raise ValueError(f"{expected}, found {weights_N[wrong[0]]} for {of} {wrong[0]}.")
    if not weights_N.any():
        raise ValueError(f"{expected}, found zeros alone.")
    return weights_N

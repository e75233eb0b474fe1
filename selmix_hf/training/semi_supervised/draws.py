"""Labelled images, each with mu unlabelled ones, as one map-style dataset for one DataLoader.

Both sets are endless sequences of shuffled passes, and every sample in them has the seed of its views. Place t of a
sequence depends on the run's seed alone: neither on batch size, accumulation, workers and processes nor on where a
run was resumed.

Shape suffixes: B labelled samples, V views, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from selmix_hf.data.collators import ImageCollator
from selmix_hf.data.seeded import SeededExample, fetch


class Draw(NamedTuple):
    """(index, seed) of a labelled sample and of each of its mu unlabelled ones."""

    labelled: tuple[int, int]
    unlabelled: Sequence[tuple[int, int]]


class DrawnExample(NamedTuple):
    """The samples behind a `Draw`."""

    labelled: SeededExample
    unlabelled: list[SeededExample]


def shuffled_passes(size: int, start: int, stop: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Places start to stop of the endless sequence: indices in 0..size-1 and their seeds, 2 x (stop - start)."""
    numbers = range(start // size, (stop - 1) // size + 1)
    generators = [np.random.default_rng([*seed, number]) for number in numbers]
    passes = [np.stack([g.permutation(size), g.integers(2**31, size=size)]) for g in generators]
    return np.concatenate(passes, 1)[:, start - numbers[0] * size : stop - numbers[0] * size]


class DrawSampler(Sampler[Draw]):
    """The draws of one epoch.

    Args:
        num_labelled, num_unlabelled: sizes of the two sets.
        mu: unlabelled samples of a draw.
        num_draws: length of an epoch.
        get_epoch: gives the number of the epoch when its iteration begins.
        seed: of the run.
    """

    def __init__(
        self,
        num_labelled: int,
        num_unlabelled: int,
        mu: int,
        num_draws: int,
        get_epoch: Callable[[], int],
        seed: int = 0,
    ) -> None:
        self.num_labelled, self.num_unlabelled, self.mu = num_labelled, num_unlabelled, mu
        self.num_draws, self.get_epoch, self.seed = num_draws, get_epoch, seed

    def __len__(self) -> int:
        return self.num_draws

    def __iter__(self) -> Iterator[Draw]:
        start = self.get_epoch() * self.num_draws
        stop, mu = start + self.num_draws, self.mu
        labelled = shuffled_passes(self.num_labelled, start, stop, [self.seed, 0]).T.tolist()
        unlabelled = shuffled_passes(self.num_unlabelled, mu * start, mu * stop, [self.seed, 1]).T.tolist()
        for place, own in enumerate(labelled):
            yield Draw(tuple(own), [(index, seed) for index, seed in unlabelled[mu * place : mu * (place + 1)]])


class DrawDataset(Dataset[DrawnExample]):
    """Indexed by `Draw`; as long as the labelled set."""

    def __init__(self, labelled: Any, unlabelled: Any) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, draw: Draw) -> DrawnExample:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[DrawnExample]:
        labelled = _samples(self.labelled, [draw.labelled for draw in draws])
        unlabelled = iter(_samples(self.unlabelled, [sample for draw in draws for sample in draw.unlabelled]))
        return [
            DrawnExample(own, [next(unlabelled) for _ in draw.unlabelled])
            for own, draw in zip(labelled, draws, strict=True)
        ]


def _samples(dataset: Any, drawn: Sequence[tuple[int, int]]) -> list[SeededExample]:
    indices, seeds = zip(*drawn, strict=True)
    return list(map(SeededExample, fetch(dataset, indices, seeds), seeds))


class ViewCollator:
    """Make a batch of B draws: "pixel_values", B x (1 + V mu) x C x H x W, "labels", B, and "seeds", B: those of the
    labelled samples, which fix what else is drawn for the batch.

    Of the second dimension, place 0 is the labelled image, then come the first views of the mu unlabelled ones, then
    the second views.

    Args:
        labelled: makes the labelled image's view, and its label.
        views: one collator for each of the V views of an unlabelled image.

    Raises:
        ValueError: on a call, views of different shapes, or of several tensors.
    """

    def __init__(self, labelled: ImageCollator, views: Sequence[ImageCollator]) -> None:
        self.labelled, self.views = labelled, views

    def __call__(self, examples: Sequence[DrawnExample]) -> dict[str, Tensor]:
        own, own_seeds = zip(*(example.labelled for example in examples), strict=True)
        batch = self.labelled(own, seeds=own_seeds)
        if more := batch.keys() - {"pixel_values", "labels"}:
            raise ValueError(
                f"the views of a batch are pixel_values alone, found {', '.join(sorted(more))} too: give an image "
                "processor of a model with a fixed image size."
            )
        samples, seeds = zip(*(sample for example in examples for sample in example.unlabelled), strict=True)
        parts = [batch["pixel_values"][:, None]]
        for number, view in enumerate(self.views):  # another seed, or two weak views would be one
            pixels = view(samples, seeds=[seed + number for seed in seeds])["pixel_values"]
            parts.append(pixels.unflatten(0, (len(examples), -1)))
        shapes = {tuple(part.shape[2:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"the views of a batch go through the model together and must have one shape C x H x W, found "
                f"{', '.join(str(list(shape)) for shape in sorted(shapes))}: give transforms that end in one size."
            )
        return {"pixel_values": torch.cat(parts, 1), "labels": batch["labels"], "seeds": torch.tensor(own_seeds)}

"""What a period trains on: pairs drawn from P, or single samples by their weight.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from selmix_hf.config import SelMixConfig
from selmix_hf.data.collators import Collator
from selmix_hf.data.pairs import PairDataset, PairSampler
from selmix_hf.data.seeded import DrawnSamples
from selmix_hf.data.weighted import WeightedSampler
from selmix_hf.features.stored import FeatureDataset, FeaturePairs, FeatureSamples
from selmix_hf.method.draws import ClassIndex, largest_repeat
from selmix_hf.training.pseudo_labels import PseudoLabels
from selmix_hf.training.sets import Sets
from selmix_hf.training.state import PairState


@dataclass(frozen=True)
class DrawPlan:
    """How much a run draws, and from what seed.

    Attributes:
        args: of the run.
        seed: with the number of the period it fixes every draw.
        state: gives P, pseudo-labels and the period when a period's draws begin.
        batch_size: of this process; Trainer's own.
    """

    args: SelMixConfig
    seed: int
    state: Callable[[], PairState]
    batch_size: Callable[[], int]

    @property
    def a_step(self) -> int:
        """Pairs, or single samples, of an optimizer step over all processes."""
        return self.batch_size() * self.args.gradient_accumulation_steps * int(self.args.world_size)

    @property
    def a_period(self) -> int:
        """Those of a period."""
        return self.a_step * self.args.refresh_steps


class Draws(Protocol):
    """What a training loader is made of: a dataset that is indexed by what its sampler gives."""

    plan: DrawPlan

    def of_images(self) -> tuple[Dataset[Any], Sampler[Any]]: ...

    def of_features(self, stored: FeatureDataset) -> tuple[Dataset[Any], Sampler[Any]]: ...


class PairLoader:
    """Pairs of samples, or of their stored features.

    Args:
        sets: of the run; first samples come from the training set.
        plan: of the run.
        unlabeled: gives the second samples; None: they come from the training set too.
    """

    def __init__(self, sets: Sets, plan: DrawPlan, unlabeled: PseudoLabels | None = None) -> None:
        self.sets, self.plan, self.unlabeled = sets, plan, unlabeled
        self.counts = np.bincount(sets.train_labels, minlength=sets.num_classes)

    def of_images(self) -> tuple[Dataset[Any], Sampler[Any]]:
        second = None if self.unlabeled is None else self.unlabeled.second_set()
        dataset = PairDataset(self.sets.train, second, reuse=self.plan.args.reuse_samples)
        return dataset, self._sampler(self.sets.train_labels, 1)

    def of_features(self, stored: FeatureDataset) -> tuple[Dataset[Any], Sampler[Any]]:
        second = None if self.unlabeled is None else self.unlabeled.second_features(stored)
        return FeaturePairs(stored, second), self._sampler(stored.labels.numpy(), self.plan.args.feature_views)

    def _sampler(self, labels: NDArray[np.int64], views: int) -> PairSampler:
        index, plan = ClassIndex(labels, self.sets.num_classes), self.plan
        return PairSampler(
            index,
            index if self.unlabeled is None else lambda: self._second_index(plan.state().pseudo_labels, views),
            get_probability=lambda: torch.as_tensor(plan.state().probability),
            get_period=lambda: plan.state().period,
            num_pairs=plan.a_period,
            beta_min=plan.args.beta_min,
            seed=plan.seed,
            reuse_within=plan.batch_size() if plan.args.reuse_samples else None,
        )

    def _second_index(self, pseudo_labels: Any, views: int = 1) -> ClassIndex:
        assert self.unlabeled is not None
        return self.unlabeled.second_index(torch.as_tensor(pseudo_labels), views)

    def second_counts(self, pseudo_labels: Tensor | None) -> NDArray[np.int64] | None:
        """Samples of each class in the second set, K; None where that is the training set."""
        return None if pseudo_labels is None else self._second_index(pseudo_labels).counts

    def largest_repeat(self, probability: Tensor, second_counts: NDArray[np.int64] | None) -> float:
        """See `draws.largest_repeat`: in the period that begins."""
        return largest_repeat(probability, self.counts, self.plan.a_period, second_counts)


class SampleLoader:
    """Single samples, or their stored features, each view of a sample as often as any other.

    Args:
        dataset: the training set.
        weights: how often each sample is drawn, N.
        plan: of the run.
    """

    def __init__(self, dataset: Any, weights: NDArray[np.float64], plan: DrawPlan) -> None:
        self.dataset, self.weights, self.plan = dataset, weights, plan

    def of_images(self) -> tuple[Dataset[Any], Sampler[Any]]:
        return DrawnSamples(self.dataset), self._sampler(1)

    def of_features(self, stored: FeatureDataset) -> tuple[Dataset[Any], Sampler[Any]]:
        return FeatureSamples(stored), self._sampler(len(stored.views))

    def _sampler(self, views: int) -> WeightedSampler:
        return WeightedSampler(
            np.tile(self.weights, views),
            num_draws=self.plan.a_period,
            get_epoch=lambda: self.plan.state().period,
            seed=self.plan.seed,
            with_seeds=True,
        )

    def largest_repeat(self) -> float:
        """How often the sample that is drawn most is expected in a period."""
        repeat = self.weights.max() / self.weights.sum() * self.plan.a_step
        return float(repeat * self.plan.args.refresh_steps)


def data_loader(draws: Draws, stored: FeatureDataset | None, collator: Collator) -> DataLoader[Any]:
    """Batches of a period, from stored features where there are some."""
    dataset, sampler = draws.of_images() if stored is None else draws.of_features(stored)
    plan, args = draws.plan, draws.plan.args
    workers = args.dataloader_num_workers if stored is None else 0
    return DataLoader(
        dataset,
        batch_size=plan.batch_size(),
        sampler=sampler,
        collate_fn=collator if stored is None else dict,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        generator=torch.Generator().manual_seed(plan.seed),
    )

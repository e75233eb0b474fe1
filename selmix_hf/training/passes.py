"""What the model of a run makes of whole datasets: statistics, classes, and the features that enter its head.

Shape suffixes: N samples, R rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from selmix_hf.config import SelMixConfig
from selmix_hf.data.bad_images import Rows
from selmix_hf.data.collators import SelMixCollator
from selmix_hf.data.labels import first_of_each
from selmix_hf.data.random_state import isolated_random_state, seed_of_draws
from selmix_hf.data.seeded import SeededDataset
from selmix_hf.features.cache import FeatureCache, FeatureSource
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.features.stored import FeatureDataset
from selmix_hf.method.confusion import ClassStatistics
from selmix_hf.models.head import ClassifierHead


class Passes:
    """Looks at datasets under the current weights, in eval mode, each process its share.

    Args:
        model, head: of the run.
        args: of the run: batch size, workers, where features are kept.
        collator: of the trainer.
        prepare: moves a batch to the model's device.
        autocast: gives the context of a forward pass.
        precision: that of the run, which features depend on.
        is_main: whether this process may show a bar.

    Attributes:
        cache: computes features, or knows them; may be replaced by another `FeatureSource`.
    """

    def __init__(
        self,
        model: nn.Module,
        head: ClassifierHead,
        args: SelMixConfig,
        collator: SelMixCollator,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        autocast: Callable[[], AbstractContextManager[object]],
        precision: str,
        is_main: bool,
    ) -> None:
        self.model, self.head, self.args, self.collator = model, head, args, collator
        self.prepare, self.autocast = prepare, autocast
        self.show_progress = is_main and not args.disable_tqdm
        self.cache: FeatureSource = FeatureCache(args.feature_cache_dir, args.feature_dtype, precision)
        self._kept: dict[int, tuple[Any, FeatureDataset]] | None = None

    @property
    def seed(self) -> int:
        """Of all that a run draws."""
        return seed_of_draws(self.args)

    @property
    def look(self) -> DatasetPass:
        """One pass."""
        args = self.args
        return DatasetPass(
            self.model,
            self.head,
            batch_size=args.eval_batch_size,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            rank=args.process_index,
            world_size=args.world_size,
            prepare=self.prepare,
            autocast=self.autocast,
            show_progress=self.show_progress,
        )

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside, where the backbone must stay what it is, `stored` makes the features of a dataset once."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def stored(self, dataset: Any, labels: NDArray[np.integer] | None = None) -> FeatureDataset:
        """Features of a dataset without augmentation, on every process, with its labels (N) where they matter."""
        known = {} if self._kept is None else self._kept
        if id(dataset) not in known:
            labels_N = np.zeros(len(dataset), np.int64) if labels is None else labels
            features = FeatureDataset(self.features_of(dataset), labels_N)
            known[id(dataset)] = dataset, features  # the dataset is kept alive, so that its id stays its own
        return known[id(dataset)][1]

    def stored_or_raw(self, dataset: Any) -> Any:
        """The stored features of a dataset where there are some, else the dataset."""
        return (self._kept or {}).get(id(dataset), (None, dataset))[1]

    def statistics_of(
        self, dataset: Any, labels: NDArray[np.integer], on_batch: Callable[[], None] | None = None
    ) -> ClassStatistics:
        """Counts, centroids and loss of a dataset with its labels (N); from stored features where they are kept on
        disk. See `DatasetPass.statistics`."""
        if self._on_disk:
            dataset = self.stored(dataset, labels)
        return self.look.statistics(dataset, self.collator.eval_collator, on_batch)

    @property
    def _on_disk(self) -> bool:
        return self.args.freeze_backbone and self.args.feature_cache_dir is not None

    def features_of(self, dataset: Any) -> Tensor:
        """Features of a dataset without augmentation, N x D, on every process."""
        return self.cache.features(self.look, dataset, SelMixCollator(self.collator.eval_collator))

    @property
    def random_views(self) -> bool:
        """Whether a view of a training sample is another one each time."""
        return self.collator.augments or self.args.feature_views > 1

    def views_of(self, dataset: Any) -> list[Tensor]:
        """Features of a training set, one tensor N x D a view."""
        collator = SelMixCollator(self.collator.collator)
        seeds = [self.seed * 1000 + view if self.random_views else 0 for view in range(self.args.feature_views)]
        return [self.cache.features(self.look, dataset, collator, seed) for seed in seeds]

    def rows_of_each(self, labels: NDArray[np.int64], counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of a set with these labels (N), up to so many of each class (K), drawn by the seed alone."""
        return first_of_each(np.random.default_rng(self.seed).permutation(len(labels)), labels, counts)

    def some_of_each(self, dataset: Any, labels: NDArray[np.int64], per_class: int) -> FeatureDataset:
        """Features of up to so many samples a class of a training set, on every process: samples and views depend on
        the seed alone."""
        rows_R = self.rows_of_each(labels, [per_class] * self.head.num_classes)
        seeded = SeededDataset(Rows(dataset, rows_R.tolist()), [self.seed])
        with isolated_random_state(self.seed):
            features_RD = self.look.features(seeded, SelMixCollator(self.collator.collator))
        return FeatureDataset(features_RD, labels[rows_R])

    def classes_of(self, dataset: Any) -> Tensor:
        """The class that the model gives each sample, shape N, on every process; from stored features where they are
        kept on disk."""
        if self._on_disk:
            dataset = FeatureDataset(self.features_of(dataset), np.zeros(len(dataset), np.int64))
        classes_N, _ = self.look.predictions(dataset, self.collator.eval_collator)
        return classes_N

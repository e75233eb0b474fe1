"""Passes over a dataset: statistics, features, predictions, each process its share.

Shape suffixes: N samples, R rows at a time, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from selmix_hf.data.bad_images import Rows
from selmix_hf.data.collators import Collator
from selmix_hf.features.stored import FEATURES, FeatureDataset, row_chunks
from selmix_hf.method.confusion import ClassStatistics, predicted_classes
from selmix_hf.method.finite import all_finite, first_not_finite
from selmix_hf.models.head import ClassifierHead, logits_of


@dataclass(frozen=True)
class DatasetPass:
    """One look at each sample of a dataset, in eval mode, spread over the processes; no global random state is used.

    Args:
        model: the whole classifier.
        head: its head.
        batch_size, num_workers, pin_memory: of the loader.
        rank, world_size: this process takes the rows rank, rank + world_size, ...: no sample is seen twice.
        prepare: moves a batch to the model's device.
        autocast: gives the context of a forward pass.
        show_progress: a bar while features are computed, to be shown by one process.
    """

    model: nn.Module
    head: ClassifierHead
    batch_size: int = 64
    num_workers: int = 0
    pin_memory: bool = False
    rank: int = 0
    world_size: int = 1
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    show_progress: bool = False

    def statistics(
        self,
        dataset: Any,
        collator: Collator,
        on_batch: Callable[[], None] | None = None,
        on_features: Callable[[Tensor, Tensor], None] | None = None,
    ) -> ClassStatistics:
        """Counts, centroids and loss, summed over the processes.

        Args:
            dataset: a map-style dataset, or a `FeatureDataset`.
            collator: makes batches with "labels"; not used for a `FeatureDataset`.
            on_batch: called after every batch.
            on_features: called with the features and labels of every batch of this process.

        Raises:
            ValueError: batches without labels, or logits without a largest one (`confusion.predicted_classes`).
        """
        device = next(self.model.parameters()).device
        statistics = ClassStatistics(self.head.num_classes, self.head.num_features, device)
        stored = isinstance(dataset, FeatureDataset)
        if stored:
            sums_KD = dataset.class_sums(self.head.num_classes, self.rank, self.world_size)
            statistics.feature_sums += sums_KD.to(statistics.feature_sums)
        for rows, batch in self._own_rows(dataset, collator):
            labels = batch.pop("labels", None)
            if labels is None:
                raise ValueError(
                    f"a batch must have the classes as 'labels', found {', '.join(batch)}: the dataset must have them "
                    "in the same column as the training set, see rename_column."
                )
            logits_RK, features_RD = self._run(batch)
            predicted_classes(logits_RK, _numbers(rows), labels)  # an error names the sample by its row in the set
            statistics.update(labels, logits_RK, *([] if stored else [features_RD]))
            if on_batch is not None:
                on_batch()
            if on_features is not None:
                on_features(features_RD, labels)
        return statistics.all_reduce()

    def features(self, dataset: Any, collator: Collator) -> Tensor:
        """Features that enter the head, float32 on the CPU, N x D, all of them on every process."""
        features_ND = torch.zeros(len(dataset), self.head.num_features)
        rows = torch.arange(self.rank, len(dataset), self.world_size)
        for rows_R, batch_RD in self.feature_batches(dataset, collator, torch.split(rows, self.batch_size)):
            features_ND[rows_R] = batch_RD
        return _sum_of_all(features_ND, next(self.model.parameters()).device)

    @torch.no_grad()
    def predictions(
        self, dataset: Any, collator: Collator, teacher: Callable[..., Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Most probable class (int64) and its probability (float32), on the CPU, N each, all of them on every process.

        Args:
            dataset, collator: as for `statistics`; labels are not looked at.
            teacher: called with the inputs, gives logits instead of the model.

        Raises:
            ValueError: logits without a largest one, see `confusion.predicted_classes`.
        """
        class_N, confidence_N = torch.zeros(len(dataset), dtype=torch.long), torch.zeros(len(dataset))
        for rows, batch in self._own_rows(dataset, collator):
            batch.pop("labels", None)
            logits_RK = self._run(batch)[0] if teacher is None else self._taught(teacher, batch)
            class_N[rows] = predicted_classes(logits_RK, _numbers(rows)).cpu()
            confidence_R = logits_RK.float().softmax(-1).amax(-1).nan_to_num(1.0)  # NaN beside an infinite score
            confidence_N[rows] = confidence_R.cpu()
        device = next(self.model.parameters()).device
        return _sum_of_all(class_N, device), _sum_of_all(confidence_N, device)

    def _taught(self, teacher: Callable[..., Any], batch: dict[str, Any]) -> Tensor:
        answer = teacher(**batch)
        logits: Any = answer if isinstance(answer, Tensor) else logits_of(answer)
        size = (len(next(iter(batch.values()))), self.head.num_classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != size or not bool(logits.isfinite().all()):
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"a teacher must give finite logits of shape {size} for a batch, found {found}.")
        return logits

    def feature_batches(
        self, dataset: Any, collator: Collator, batches: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (R) and their features (R x D, float32 on the CPU), for each of the given batches of rows."""
        with tqdm(
            total=sum(map(len, batches)), desc="pooled features", unit=" samples", disable=not self.show_progress
        ) as bar:
            for rows_R, batch in self._batches(dataset, collator, batches):
                labels = batch.pop("labels", None)
                features_RD = self._run(batch)[1].float().cpu()
                _require_finite(features_RD, rows_R, labels)
                yield rows_R, features_RD
                bar.update(len(rows_R))

    @torch.no_grad()
    def _run(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and features of a batch without labels."""
        self.model.eval()
        with self.autocast():
            if FEATURES in batch:
                return self.head.logits(batch[FEATURES]), batch[FEATURES]
            with self.head.tap() as tapped:
                logits_NK = logits_of(self.model(**batch))
            return logits_NK, tapped.features

    def _own_rows(self, dataset: Any, collator: Collator) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Rows of this process and their batch: stored features with labels, or what the collator makes."""
        if isinstance(dataset, FeatureDataset):
            for chunk in row_chunks(len(dataset), self.rank, self.world_size):
                yield chunk, self.prepare({FEATURES: dataset.take(chunk), "labels": dataset.labels[chunk]})
            return
        rows = torch.arange(self.rank, len(dataset), self.world_size)
        yield from self._batches(dataset, collator, torch.split(rows, self.batch_size))

    def _batches(
        self, dataset: Any, collator: Collator, batches: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        loader = DataLoader(
            Rows(dataset),
            batch_sampler=[rows.tolist() for rows in batches],
            collate_fn=collator,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),
        )
        for rows, batch in zip(batches, loader, strict=True):
            yield rows, self.prepare(dict(batch))


def _require_finite(features_RD: Tensor, rows_R: Tensor, labels: Any) -> None:
    if not all_finite(features_RD):
        first = first_not_finite(features_RD)
        of_class = "" if labels is None else f" of class {int(labels[first])}"
        raise ValueError(
            f"the features of sample {int(rows_R[first])}{of_class} are not finite: look at its inputs, and at the "
            "weights."
        )


def _numbers(rows: Tensor | slice) -> Any:
    return range(rows.start, rows.stop, rows.step) if isinstance(rows, slice) else rows


def _sum_of_all(rows: Tensor, device: torch.device) -> Tensor:
    """Rows that are zero but on the process that computed them, so that the sum is exact."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    on_device = rows.to(device)
    torch.distributed.all_reduce(on_device)
    return on_device.cpu()

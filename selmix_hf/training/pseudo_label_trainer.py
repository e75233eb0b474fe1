"""The part of the trainer that deals with unlabelled data: pseudo-labels, and the second set of the pairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from datasets.fingerprint import Hasher
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset
from transformers.utils import logging

from selmix_hf.data.collators import SelMixCollator
from selmix_hf.data.labels import first_of_each
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.data.seeded import SeededDataset
from selmix_hf.data.unlabelled import Unlabelled
from selmix_hf.features.stored import FeatureDataset, JoinedFeatures
from selmix_hf.method.draws import ClassIndex
from selmix_hf.models.averages import ParameterAverage
from selmix_hf.training.confusion_trainer import ConfusionTrainer
from selmix_hf.training.pseudo_labels import choose, pseudo_label_report, second_labels
from selmix_hf.training.state import PairState

logger = logging.get_logger(__name__)


class PseudoLabelTrainer(ConfusionTrainer):
    """The part of `SelMixTrainer` that draws second samples from an unlabelled set by their current pseudo-labels."""

    unlabeled_dataset: Unlabelled | None
    teacher: Callable[..., Any] | None
    pair_state: PairState
    class_names: list[str]
    _train_labels: NDArray[np.int64]
    _unlabeled_truth: NDArray[np.int64] | None
    _average: ParameterAverage | None = None
    _missing: list[str] | None = None

    @property
    def pseudo_labels(self) -> Tensor | None:
        """The current classes of the unlabelled samples, shape N, -1 for those that are not used."""
        return self.pair_state.pseudo_labels

    def _start_average(self) -> None:
        if self.unlabeled_dataset is not None and self.args.pseudo_label_source == "ema":
            trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
            self._average = ParameterAverage(trained, self.args.ema_decay)

    def end_step(self) -> None:
        """After every step of the optimizer."""
        if self._average is not None:
            self._average.update()

    def _new_pseudo_labels(self) -> Tensor | None:
        """Those of the period that begins: the old ones, or where their time is over those of the current weights."""
        old, step = self.pair_state.pseudo_labels, self.state.global_step
        if self.unlabeled_dataset is None or (old is not None and step % self.args.pseudo_label_steps):
            return old
        if self.args.pseudo_label_source == "oracle":
            labels_N = np.asarray(self._unlabeled_truth, np.int64)
        else:
            threshold, share = self.args.pseudo_label_threshold, self.args.pseudo_label_share
            labels_N = choose(*self._unlabeled_predictions(), threshold, share)
        before_N = None if old is None else old.numpy()
        report = pseudo_label_report(labels_N, before_N, self.class_names, self._unlabeled_truth)
        self.log(report)
        counts_K = np.bincount(labels_N[labels_N >= 0], minlength=len(self.class_names))
        names = [self.class_names[k] for k in np.flatnonzero(counts_K == 0)]
        news, self._missing = names != self._missing, names
        if names and news and self.is_world_process_zero():
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            logger.warning(f"step {step}: no unlabelled sample is used as {shown}; the labelled set serves for them.")
        return torch.from_numpy(labels_N)

    def _unlabeled_predictions(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        dataset: Any = self.unlabeled_dataset
        if self.args.freeze_backbone and self.teacher is None:
            dataset = self._as_features(dataset, np.zeros(len(dataset), np.int64))
        with self._average.in_place() if self._average is not None else nullcontext():
            with isolated_random_state(self._seed()):
                classes, confidence = self._pass().predictions(dataset, self.data_collator.eval_collator, self.teacher)
        return classes.numpy(), confidence.numpy()

    def _second_set(self) -> Any:
        """Unlabelled samples, then the labelled ones; None without the former."""
        parts: list[Any] = [self.unlabeled_dataset, self.train_dataset]
        return None if self.unlabeled_dataset is None else ConcatDataset(parts)

    def _second_features(self, first: FeatureDataset) -> JoinedFeatures | None:
        """The stored views of `_second_set`, in the order of `pseudo_labels.second_labels`."""
        if self.unlabeled_dataset is None:
            return None
        labels = np.zeros(len(self.unlabeled_dataset), np.int64)
        if not self._random_views() and _alike(self.data_collator.collator, self.data_collator.eval_collator):
            return JoinedFeatures(self._as_features(self.unlabeled_dataset, labels), first)
        return JoinedFeatures(FeatureDataset(self._views_of(self.unlabeled_dataset), labels), first)

    def _second_index(self, views: int) -> ClassIndex:
        pseudo_N = torch.as_tensor(self.pair_state.pseudo_labels).numpy()
        num_classes = self.head.num_classes
        return ClassIndex(second_labels(pseudo_N, self._train_labels, num_classes, views), num_classes)

    def _second_counts(self, pseudo_labels: Tensor | None) -> NDArray[np.int64] | None:
        """Samples of each class in the second set, K; None where that is the training set."""
        if pseudo_labels is None:
            return None
        num_classes = self.head.num_classes
        return ClassIndex(second_labels(pseudo_labels.numpy(), self._train_labels, num_classes), num_classes).counts

    def _views_of(self, dataset: Any) -> list[Tensor]:
        """Features of a training set, one tensor a view."""
        cache, collator = self._feature_cache(), SelMixCollator(self.data_collator.collator)
        seeds = [self._seed() * 1000 + view if self._random_views() else 0 for view in range(self.args.feature_views)]
        return [cache.features(self._pass(), dataset, collator, seed) for seed in seeds]

    def training_features(self, per_class: int) -> FeatureDataset:
        """Features of up to so many samples a class of `train_dataset` under the current weights, on every process:
        samples and views depend on the seed alone."""
        generator = np.random.default_rng(self._seed())
        order_N = generator.permutation(len(self._train_labels))
        rows_R = first_of_each(order_N, self._train_labels, [per_class] * self.head.num_classes)
        dataset: Any = self.train_dataset
        seeded = SeededDataset(Subset(dataset, rows_R.tolist()), [self._seed()])
        with isolated_random_state(self._seed()):
            features_RD = self._pass().features(seeded, SelMixCollator(self.data_collator.collator))
        return FeatureDataset(features_RD, self._train_labels[rows_R])

    def _random_views(self) -> bool:
        return self.data_collator.augments or self.args.feature_views > 1


def _alike(first: Any, second: Any) -> bool:
    try:
        return bool(Hasher.hash(first) == Hasher.hash(second))
    except Exception:  # what cannot be pickled is not compared, and its features are computed twice
        return False


def prepared_teacher(teacher: Any, device: torch.device) -> Any:
    """A module on the device and in evaluation mode; any other callable as it is."""
    return teacher.to(device).eval() if isinstance(teacher, nn.Module) else teacher

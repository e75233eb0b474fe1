"""The sets of a run, read and checked: what is trained on, what steers, what is unlabelled.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from selmix_hf.config import SelMixConfig
from selmix_hf.data.bad_images import kept_images
from selmix_hf.data.classes import Numbering, label_column_of, read_labels
from selmix_hf.data.labels import checked_labels
from selmix_hf.data.unlabelled import Unlabelled, without_labels
from selmix_hf.data.weighted import SAMPLE_WEIGHTS, sampling_weights
from selmix_hf.method.confusion import distinct_names, require_all_classes
from selmix_hf.models.peft_models import base_of
from selmix_hf.training.refit import with_gain_set
from selmix_hf.training.same_data import data_facts

LEAVE_OUT = "add samples of these classes, or set absent_classes='leave out' for numbers of the others alone"


class Sets:
    """Those of a run.

    Args:
        train, gain: labelled; the latter is joined to the former where it trains too.
        unlabeled, truth: the unlabelled set and its true classes, or None.
        args: of the run.
        label_column: of the class; None: found.
        sample_weights: instead of `args.sampling`.
        class_order: see `classes.resolve_class_names`.

    Attributes:
        train, gain: what is trained on, and what steers; once read, by the numbers that classes have in the model.
        label_column: of the class.
        unlabeled: as its items look like those of `train`, without a label; None without such a set.
        sampling: how single samples are drawn; None where pairs are.

    After `read`:
        numbering: which number each class has.
        facts: what a checkpoint keeps of classes and labels, see `same_data`.
        class_names: K, all different.
        train_labels, gain_labels: N each.
        truth: of the unlabelled samples, or None.
        sample_weights: N, where single samples are drawn; else None.
        train_counts: training samples of each class, without those of the gain set, K.
    """

    def __init__(
        self,
        train: Any,
        gain: Any,
        unlabeled: Any,
        truth: Any,
        args: SelMixConfig,
        label_column: str | None,
        sample_weights: ArrayLike | None,
        class_order: Sequence[str | int] | None = None,
    ) -> None:
        self._given_gain, self._on_bad_image = gain, str(args.on_bad_image)
        train, sample_weights = kept_images(self._on_bad_image, "train_dataset", train, sample_weights)
        gain, _ = kept_images(self._on_bad_image, "gain_dataset", gain)
        unlabeled, truth = kept_images(self._on_bad_image, "unlabeled_dataset", unlabeled, truth)
        self._num_own = len(train)
        self.train = with_gain_set(train, gain) if args.gain_set_use == "train" else train
        self.args, self.gain, self._given_truth, self._given_weights = args, gain, truth, sample_weights
        self._class_order = class_order
        self._evaluated: dict[
            int, tuple[Any, NDArray[np.int64]]
        ] = {}  # sets with their labels, by the ids, which they keep
        self.sampling: Any = args.sampling if sample_weights is None else SAMPLE_WEIGHTS
        self.label_column = label_column_of(self.train, label_column)
        self.unlabeled: Unlabelled | None = without_labels(unlabeled, self.train, self.label_column)

    def read(self, model: nn.Module, num_classes: int) -> None:
        """Read the labels, once the number of the model's classes is known.

        Raises:
            ValueError: see `classes.Numbering`, `classes.read_labels` and `weighted.sampling_weights`.
        """
        self.num_classes = num_classes
        base, column = base_of(model), self.label_column
        self.numbering = Numbering(base, self.train, column, num_classes, self._class_order)
        self.train = self.numbering.of(self.train, "train_dataset")
        self.gain = self.numbering.of(self.gain, "gain_dataset")
        self.class_names = distinct_names(self.numbering.names)
        self.train_labels = self.labels_of(self.train, "train_dataset")
        self.gain_labels = self.labels_of(self.gain, "gain_dataset")
        own = self.train_labels[: self._num_own]
        self.facts = data_facts(self.class_names, train_dataset=own, gain_dataset=self.gain_labels)
        self.truth: NDArray[np.int64] | None = None
        if self._given_truth is not None and self.unlabeled is not None:
            given = np.asarray(self._given_truth)
            given = checked_labels(given, len(self.unlabeled), "unlabeled_labels", self.class_names)
            self.truth = self.numbering.of_labels(given, self.unlabeled.dataset, "unlabeled_dataset")
        self.sample_weights: NDArray[np.float64] | None = None
        if self.sampling is not None:
            drawn = self.sampling, self.train_labels, num_classes, self._given_weights
            self.sample_weights = sampling_weights(*drawn)
        self.train_counts = np.bincount(own, minlength=num_classes)

    def for_evaluation(self, dataset: Any) -> Any:
        """What `eval_dataset` stands for: the gain set for None; without bad images where those are left out."""
        if dataset is None or dataset is self._given_gain:
            return self.gain
        if isinstance(dataset, Mapping):
            return {name: kept_images(self._on_bad_image, name, one)[0] for name, one in dataset.items()}
        return kept_images(self._on_bad_image, "eval_dataset", dataset)[0]

    def labels_of(self, dataset: Any, name: str, all_classes: bool = True) -> NDArray[np.int64]:
        """The classes of any labelled set, N, checked against those of the run; `name` is what an error calls it."""
        known = self.num_classes, self.class_names
        return read_labels(self.numbering.of(dataset, name), name, self.label_column, *known, all_classes)

    def evaluated(self, dataset: Any, name: str, chooses: bool = False) -> NDArray[np.int64]:
        """As `labels_of`, of a set that may lack classes where `absent_classes` says so; not one that chooses the
        checkpoint by the objective, which is of all classes. A set is read once."""
        if id(dataset) not in self._evaluated:
            self._evaluated[id(dataset)] = dataset, self.labels_of(dataset, name, all_classes=False)
        labels_N = self._evaluated[id(dataset)][1]
        if chooses or self.args.absent_classes == "refuse":
            reason = "it chooses the checkpoint by the objective, which is of all classes"
            counts_K = torch.from_numpy(np.bincount(labels_N, minlength=self.num_classes))
            require_all_classes(counts_K, self.class_names, name, reason if chooses else LEAVE_OUT)
        return labels_N

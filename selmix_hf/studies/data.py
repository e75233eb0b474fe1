"""What a benchmark is run on: its splits, and what their samples are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict

from selmix_hf.config import SelMixConfig
from selmix_hf.data.bad_images import readable_images
from selmix_hf.data.collators import Collator
from selmix_hf.data.examples import image_columns
from selmix_hf.data.hub_ids import hub_ids
from selmix_hf.data.labels import class_labels, infer_label_column
from selmix_hf.data.modality import Images, Modality
from selmix_hf.data.numbering import with_classes_of
from selmix_hf.method.confusion import require_all_classes


@dataclass
class BenchmarkData:
    """What a benchmark is run on.

    Attributes:
        splits: "train" (long-tailed), "validation" (steers and selects), "test", and perhaps "unlabeled".
        digest: sha256 that fixes which samples are in "train" and "validation".
        name: of the dataset, for people.
        dataset_id: on the Hub, or None; that of the splits where they were loaded from there.
        photos: images of many sizes, which augmentation crops and scales; else all have one size.
        remark: a sentence that the output must carry, or "".
        unlabeled_labels: true classes of "unlabeled", for analysis alone.
        own_label_column: which column holds the class; None: the one that can.
        modality: what the samples are, and how a classifier of them is loaded and fed.
    """

    splits: DatasetDict
    digest: str
    name: str
    dataset_id: str | None = None
    photos: bool = False
    remark: str = ""
    own_label_column: str | None = None
    unlabeled_labels: Sequence[int] | None = None
    modality: Modality = field(default_factory=Images)

    def __post_init__(self) -> None:
        self.dataset_id = next(iter(hub_ids(*self.splits.values())), self.dataset_id)
        num_classes, features = len(self.class_names), self.splits["train"].features
        for part, dataset in self.splits.items():
            if part == "unlabeled":
                continue
            dataset = self.splits[part] = with_classes_of(dataset, f"the split {part}", features, "the split train")
            counts_K = np.bincount(class_labels(dataset, self.label_column), minlength=num_classes)
            require_all_classes(torch.as_tensor(counts_K), self.class_names, f"the split {part}")

    @property
    def label_column(self) -> str:
        return self.own_label_column or infer_label_column(self.splits["train"])

    @property
    def image_column(self) -> str:
        return str(image_columns(self.splits["train"])[0])

    @property
    def samples(self) -> str:
        """What they are called, in the plural."""
        return self.modality.samples

    @property
    def summary(self) -> str:
        """A line on what this is."""
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in self.splits.items())
        return f"{sizes} {self.samples}, split {self.digest[:12]}.{' ' * bool(self.remark)}{self.remark}"

    def prepared(self, processor: Any) -> BenchmarkData:
        """With every split as the collator wants it."""
        prepared = copy.copy(self)
        prepared.splits = DatasetDict({k: self.modality.prepared(part, processor) for k, part in self.splits.items()})
        return prepared

    def data_collator(self, processor: Any) -> Collator | None:
        """For a trainer's `data_collator`; None: what the trainer takes by default."""
        return self.modality.data_collator(processor, self.label_column)

    def probe(self, processor: Any) -> dict[str, Any]:
        """Model inputs of a sample or two."""
        return self.modality.probe(processor, self.splits["train"], self.label_column)

    @property
    def class_names(self) -> list[str]:
        """K names."""
        names = getattr(self.splits["train"].features[self.label_column], "names", None)
        return list(names or map(str, range(class_labels(self.splits["train"], self.label_column).max() + 1)))

    @property
    def train_counts(self) -> np.ndarray:
        """Training samples of each class, shape K."""
        return np.bincount(class_labels(self.splits["train"], self.label_column), minlength=len(self.class_names))


def without_bad_images(config: SelMixConfig, data: BenchmarkData) -> BenchmarkData:
    """With `on_bad_image="skip"`, the data without the images that cannot be decoded, which their remark counts; the
    option is "raise" afterwards, as nothing is left to skip."""
    if config.on_bad_image == "raise":
        return data
    config.on_bad_image = "raise"
    splits, true_labels, counts = {}, data.unlabeled_labels, []
    for part, dataset in data.splits.items():
        splits[part], rows_N = readable_images(dataset, f"the split {part}")
        if part == "unlabeled" and true_labels is not None:
            true_labels = np.asarray(true_labels)[rows_N].tolist()
        if left_out := len(dataset) - len(rows_N):
            counts.append(f"{left_out} of {len(dataset):,} in {part}")
    remark = f"Images that cannot be decoded were left out: {', '.join(counts)}." if counts else ""
    remark = " ".join(filter(None, (data.remark, remark)))
    return replace(data, splits=DatasetDict(splits), unlabeled_labels=true_labels, remark=remark)

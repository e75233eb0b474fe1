"""The starts of `benchmarks.natural`: features, labels and a head each, made once and kept as safetensors.

Everything has a seed; nothing is downloaded. Names say what the data are and how the head came about: "plain" and
"logit-adjusted" are the losses that it, or the whole network, was trained with; a "probe" is a linear head on features
of a network that was trained for something else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import starts as images
from benchmarks.defaults import classifier_sets
from benchmarks.glyphs import write as write_glyphs
from selmix_hf import make_long_tailed
from selmix_hf.data.collators import ImageCollator, TokenCollator
from selmix_hf.data.labels import class_labels
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.models.head_search import find_head
from selmix_hf.models.loading import load_images

Set = tuple[Tensor, Tensor]  # features N x D, labels N
PARTS = ("train", "gain", "test")
REFERENCE = images.STARTS[-1]


@dataclass(frozen=True)
class Start:
    """What every method begins with.

    Attributes:
        train, gain, test: features and labels.
        head: weight K x D and bias K.
    """

    train: Set
    gain: Set
    test: Set
    head: tuple[Tensor, Tensor]

    def save(self, path: Path) -> None:
        tensors = {"weight": self.head[0], "bias": self.head[1]}
        for part in PARTS:
            features_ND, labels_N = getattr(self, part)
            tensors |= {f"{part}_features": features_ND, f"{part}_labels": labels_N}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Start:
        tensors = load_file(path)
        sets = {part: (tensors[f"{part}_features"], tensors[f"{part}_labels"]) for part in PARTS}
        return cls(**sets, head=(tensors["weight"], tensors["bias"]))


def _features(model: Any, splits: dict[str, Dataset], collator: Any) -> Start:
    """Features that enter the model's head, and the head."""
    first = collator([splits["train"][0], splits["train"][1]])
    head = find_head(model.eval(), {name: value for name, value in first.items() if name != "labels"})
    look = DatasetPass(model, head, batch_size=128)
    sets = {
        part: (look.features(dataset, collator), torch.from_numpy(class_labels(dataset)))
        for part, dataset in splits.items()
    }
    return Start(**sets, head=(head.weight.float(), torch.as_tensor(head.bias).float()))


def _of_images(start: images.Start, splits: DatasetDict, folder: Path, root: Path) -> Start:
    """A start of `benchmarks.starts`, trained into the folder where it is not there yet."""
    reference = not start.stage1_steps
    folder = root / images.REFERENCE if reference else folder / start.folder
    if not (folder / "config.json").is_file():
        images.train_start(start, root, folder, splits, splits["test"].features["label"].names)
    model, processor = images.load(folder)
    column = next(name for name, kind in splits["train"].features.items() if type(kind).__name__ == "Image")
    collator = ImageCollator(processor, image_column=column)
    sets = {"train": splits["train"], "gain": splits["validation"], "test": splits["test"]}
    return _features(model, sets, collator)


def _cifar(network: str, loss: str) -> Callable[[Path, Path], Start]:
    def make(folder: Path, root: Path) -> Start:
        start = next(s for s in images.STARTS if (s.data, s.network, s.loss) == ("CIFAR-10-LT", network, loss))
        return _of_images(start, images.cifar10_lt(root), folder, root)

    return make


def _cifar_probe(folder: Path, root: Path) -> Start:
    """Features of the ImageNet network as it is, at 64 px."""
    splits = images.cifar10_lt(root)
    model = AutoModelForImageClassification.from_pretrained(root / images.IMAGENET, trust_remote_code=False)
    model = model.to(memory_format=torch.channels_last)
    _, processor = images.load(root / images.REFERENCE)
    sets = {"train": splits["train"], "gain": splits["validation"], "test": splits["test"]}
    return probed(_features(model, sets, ImageCollator(processor, image_column="img")), 10)


def _digits(loss: str) -> Callable[[Path, Path], Start]:
    def make(folder: Path, root: Path) -> Start:
        start = next(s for s in images.STARTS if (s.data, s.loss) == ("digits", loss))
        return _of_images(start, images.digits(root), folder, root)

    return make


def _glyphs(loss: str) -> Callable[[Path, Path], Start]:
    """150 letters, 100 training images of the most frequent down to 2, 10 that steer, a network from scratch."""

    def make(folder: Path, root: Path) -> Start:
        if not (folder / "glyphs" / "test.parquet").is_file():
            write_glyphs(folder / "glyphs")
        dataset = load_images(str(folder / "glyphs"))
        splits = make_long_tailed(dataset["train"], imbalance_factor=50, max_per_class=100, validation_per_class=10)
        start = images.Start("glyphs", "scratch", loss, 32, "test_resnet", 1500, 0.1)
        return _of_images(start, DatasetDict(**splits, test=dataset["test"]), folder, root)

    return make


def _texts(folder: Path, root: Path) -> Start:
    """One-line descriptions of Debian's packages, 57 sections."""
    data, checkpoint = root / "data" / "debian_sections", root / "checkpoints" / "debian-sections-minilm"
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    parts = {"train": "train", "gain": "validation", "test": "test"}
    rows = {part: Dataset.from_parquet(str(data / f"{name}.parquet")) for part, name in parts.items()}
    sets = {
        part: dataset.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32))
        for part, dataset in rows.items()
    }
    return _features(model, sets, TokenCollator(tokenizer))


def _texts_adjusted(folder: Path, root: Path) -> Start:
    start = made("texts, plain", folder, root)
    return probed(start, len(start.head[1]), adjusted=True)


def _few(name: str, per_class: int) -> Callable[[Path, Path], Start]:
    """Another start with at most so many samples a class in its gain set."""

    def make(folder: Path, root: Path) -> Start:
        start = made(name, folder, root)
        return Start(start.train, few_of_each(start.gain, per_class), start.test, start.head)

    return make


def _classifier(plain: bool) -> Callable[[Path, Path], Start]:
    """K = 1000: noise around the rows of an ImageNet classifier, as `benchmarks.defaults` has it."""

    def make(folder: Path, root: Path) -> Start:
        train, [(gain, test)], head = classifier_sets(root)
        start = Start(train, gain, test, head)
        return probed(start, len(head[1]), rate=20.0) if plain else start

    return make


def few_of_each(samples: Set, per_class: int) -> Set:
    """The first so many of each class."""
    labels_N = samples[1].numpy()
    order_N = np.argsort(labels_N, kind="stable")
    sizes_K = np.bincount(labels_N)
    rank_N = np.arange(len(labels_N)) - np.repeat(np.cumsum(sizes_K) - sizes_K, sizes_K)
    rows_R = torch.from_numpy(np.sort(order_N[rank_N < per_class]))
    return samples[0][rows_R], samples[1][rows_R]


def probed(start: Start, num_classes: int, adjusted: bool = False, rate: float = 0.0) -> Start:
    """The same features with a head that was trained on the training set from zeros, 2,000 steps of 128."""
    features_ND, labels_N = start.train
    rate = rate or 5 / float(features_ND.square().sum(1).mean())
    counts_K = torch.bincount(labels_N, minlength=num_classes)
    loss: Any = LogitAdjustedLoss(counts_K) if adjusted else torch.nn.functional.cross_entropy
    head = retrain_head(features_ND, labels_N, num_classes, loss, learning_rate=rate)
    return Start(start.train, start.gain, start.test, head)


STARTS: dict[str, Callable[[Path, Path], Start]] = {
    "CIFAR-10-LT, lite0, logit-adjusted": _cifar("lite0", "logit-adjusted"),
    "CIFAR-10-LT, lite0, plain": _cifar("lite0", "plain"),
    "CIFAR-10-LT, scratch, logit-adjusted": _cifar("scratch", "logit-adjusted"),
    "CIFAR-10-LT, scratch, plain": _cifar("scratch", "plain"),
    "CIFAR-10-LT, probe": _cifar_probe,
    "digits, scratch, logit-adjusted": _digits("logit-adjusted"),
    "digits, scratch, plain": _digits("plain"),
    "glyphs, scratch, logit-adjusted": _glyphs("logit-adjusted"),
    "glyphs, scratch, plain": _glyphs("plain"),
    "texts, plain": _texts,
    "texts, logit-adjusted probe": _texts_adjusted,
    "texts, plain, 3 a class steer": _few("texts, plain", 3),
    "1,000 classes, logit-adjusted probe": _classifier(False),
    "1,000 classes, plain probe": _classifier(True),
    "1,000 classes, 3 a class steer": _few("1,000 classes, plain probe", 3),
}


def made(name: str, folder: Path, root: Path | None = None) -> Start:
    """A start by name, from the folder where it was made before."""
    path = folder / f"{name.replace(', ', '-').replace(' ', '_')}.safetensors"
    if not path.is_file():
        root = Path(os.environ["SELMIX_REFERENCE_DATA"]) if root is None else root
        STARTS[name](folder, root).save(path)
    return Start.load(path)

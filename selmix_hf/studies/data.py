"""The samples of a benchmark: splits that are drawn, or published list files."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import DatasetDict

from selmix_hf.data.collators import Collator
from selmix_hf.data.examples import image_columns
from selmix_hf.data.labels import class_labels, infer_label_column
from selmix_hf.data.list_files import load_list_files
from selmix_hf.data.long_tail import make_long_tailed
from selmix_hf.data.modality import Images, Modality
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.method.confusion import require_all_classes


@dataclass
class BenchmarkData:
    """What a benchmark is run on.

    Attributes:
        splits: "train" (long-tailed), "validation" (steers and selects), "test", and perhaps "unlabeled".
        digest: sha256 that fixes which samples are in "train" and "validation".
        name: of the dataset, for people.
        dataset_id: on the Hub, or None.
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
        num_classes = len(self.class_names)
        for part, dataset in self.splits.items():
            if part == "unlabeled":
                continue
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

    def broken_image(self) -> str | None:
        """A sentence on the first image that cannot be decoded; reads images until then."""
        sentences = (self.modality.broken(dataset, f"the split {part}") for part, dataset in self.splits.items())
        return next(filter(None, sentences), None)

    @property
    def class_names(self) -> list[str]:
        """K names."""
        names = getattr(self.splits["train"].features[self.label_column], "names", None)
        return list(names or map(str, range(class_labels(self.splits["train"], self.label_column).max() + 1)))

    @property
    def train_counts(self) -> np.ndarray:
        """Training samples of each class, shape K."""
        return np.bincount(class_labels(self.splits["train"], self.label_column), minlength=len(self.class_names))


@dataclass(kw_only=True)
class LongTailedArguments:
    """Options of a recipe whose data are made long-tailed here."""

    usual_label_column: ClassVar[str | None] = None  # taken where the data have it
    label_column: str | None = field(default=None, metadata={"help": "Default: the one that can hold classes."})
    split: str | None = field(default=None, metadata={"help": "JSON of a split; default: draw one."})
    imbalance_factor: float = field(default=100, metadata={"help": "n_max / n_min of a drawn split."})
    max_per_class: int | None = field(default=None, metadata={"help": "n_max of a drawn split; default: most."})
    validation_per_class: int = field(default=500, metadata={"help": "Set aside in a drawn split."})
    split_seed: int = field(default=0, metadata={"help": "Of a drawn split."})


@dataclass(kw_only=True)
class SemiSupervisedArguments(LongTailedArguments):
    """Options of a recipe whose data have an unlabelled part too."""

    unlabeled_max_per_class: int | None = field(default=None, metadata={"help": "M1 of a drawn split."})
    unlabeled_imbalance_factor: float = field(default=100, metadata={"help": "rho_u; 1: uniform, 0.01: inverted."})
    use_unlabeled: bool = field(default=True, metadata={"help": "SelMix takes its second samples from there."})


def split_images(
    arguments: LongTailedArguments, dataset: DatasetDict, save_to: Path, **options: Any
) -> tuple[DatasetDict, LongTailedSplit]:
    """Splits "train" (long-tailed), "validation", "test" and perhaps "unlabeled", and which images are in them.

    Args:
        arguments: say how to draw, or which split to read.
        dataset: "train", and "test" where it is needed.
        save_to: the split is written there.
        options: of `make_long_tailed`, such as `profile`.

    Raises:
        FileNotFoundError, ValueError: no such split, or one that does not fit.
    """
    if arguments.label_column is None and arguments.usual_label_column in dataset["train"].column_names:
        arguments.label_column = arguments.usual_label_column
    test = {part: dataset[part] for part in ("test",) if part in dataset}
    if isinstance(arguments, SemiSupervisedArguments) and arguments.unlabeled_max_per_class is not None:
        options["unlabeled_max_per_class"] = arguments.unlabeled_max_per_class
        options["unlabeled_imbalance_factor"] = arguments.unlabeled_imbalance_factor
    if arguments.split is None:
        splits = make_long_tailed(
            dataset["train"],
            imbalance_factor=arguments.imbalance_factor,
            max_per_class=arguments.max_per_class,
            validation_per_class=arguments.validation_per_class,
            seed=arguments.split_seed,
            label_column=arguments.label_column,
            save_to=save_to,
            **options,
        )
        return DatasetDict(**splits, **test), LongTailedSplit.load(save_to)
    if not Path(arguments.split).is_file():
        raise FileNotFoundError(f"--split: there is no file {arguments.split!r} (looked in {Path.cwd()}).")
    split = LongTailedSplit.load(arguments.split)
    splits = split.apply(dataset["train"])
    if "validation" not in splits:
        raise ValueError(f"--split: {arguments.split} has no validation images, which SelMix is steered by.")
    split.save(save_to)
    return DatasetDict(**splits, **test), split


def drawn_data(
    arguments: LongTailedArguments,
    dataset: DatasetDict,
    folder: Path,
    name: str,
    dataset_id: str | None = None,
    photos: bool = False,
    **options: Any,
) -> BenchmarkData:
    """The data of a benchmark that is made long-tailed here, with split.json in the folder.

    Args:
        arguments, dataset, options: as for `split_images`.
        name, dataset_id, photos: of `BenchmarkData`.
    """
    splits, split = split_images(arguments, dataset, folder / "split.json", **options)
    column, truth = arguments.label_column, split.unlabeled_labels
    return BenchmarkData(
        splits, split.digest, name, dataset_id, photos, own_label_column=column, unlabeled_labels=truth
    )


@dataclass(kw_only=True)
class ListArguments:
    """Options of a recipe whose splits are published list files."""

    lists: str | None = field(default=None, metadata={"help": "Folder of the list files; default: image_root."})
    image_root: str | None = field(default=None, metadata={"help": "Folder that the lists' paths start from."})
    class_names: str | None = field(default=None, metadata={"help": "File with one class name a line, in order."})
    check_images: bool = field(default=True, metadata={"help": "Look for every image before anything else."})


def load_published(arguments: ListArguments, files: Mapping[str, str], source: str) -> tuple[DatasetDict, str]:
    """The splits of published list files, and the digest of the lists.

    Args:
        arguments: where the lists and the images lie.
        files: name of the list file of each split.
        source: a sentence: where list files and images are to be had.

    Raises:
        FileNotFoundError: a folder, a list file or images are missing.
        ValueError: no text files, bad lines, or names that do not fit.
    """
    if arguments.image_root is None:
        raise ValueError(
            f"--image_root is missing: the folder that the paths in {files['train']} start from. {source}"
        )
    folder, root = Path(arguments.lists or arguments.image_root), Path(arguments.image_root)
    for option, path in (("--image_root", root), ("--lists", folder)):
        if not path.is_dir():
            raise FileNotFoundError(f"{option}: there is no folder {str(path)!r} (looked in {Path.cwd()}). {source}")
    paths = {part: folder / name for part, name in files.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"--lists: {str(folder)!r} must hold {', '.join(missing)}, but does not. {source}")
    names = None
    if arguments.class_names is not None:
        if not Path(arguments.class_names).is_file():
            raise FileNotFoundError(f"--class_names: there is no file {arguments.class_names!r}.")
        names = _names_in(Path(arguments.class_names))
        twice = sorted({name for name in names if names.count(name) > 1})[:3] if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"--class_names: {', '.join(twice)} occurs twice in {arguments.class_names}.")
    try:
        splits = load_list_files(paths, root, names, arguments.check_images)
    except (FileNotFoundError, ValueError) as error:
        if names is not None and "label_names" in str(error):
            raise ValueError(f"--class_names: {arguments.class_names} has {len(names)} names, but {error}.") from error
        raise type(error)(f"{error}. {source}") from error
    digest = hashlib.sha256()
    for part, path in paths.items():
        digest.update(part.encode() + hashlib.sha256(path.read_bytes()).digest())
    return splits, digest.hexdigest()


def _names_in(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--class_names: {path} is no text file ({error}).") from error
    if not names:
        raise ValueError(f"--class_names: {path} is empty; expected one class name a line.")
    return names

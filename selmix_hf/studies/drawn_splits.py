"""Benchmarks whose data are made long-tailed here: how a split is drawn, or read from a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datasets import DatasetDict

from selmix_hf.data.long_tail import make_long_tailed
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.studies.data import BenchmarkData


@dataclass(kw_only=True)
class LongTailedArguments:
    """Options of a recipe whose data are made long-tailed here."""

    usual_label_column: ClassVar[str | None] = None  # taken where the data have it
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the classes; default: the only one that can hold them."}
    )
    split: str | None = field(
        default=None,
        metadata={"help": "JSON file of a split, such as an earlier run's split.json; default: one is drawn."},
    )
    imbalance_factor: float = field(
        default=100,
        metadata={"help": "In a drawn split, training samples of the largest class over those of the smallest."},
    )
    max_per_class: int | None = field(
        default=None,
        metadata={"help": "In a drawn split, training samples of the largest class; default: the most possible."},
    )
    validation_per_class: int = field(
        default=500, metadata={"help": "In a drawn split, samples of each class that are set aside for validation."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed that a split is drawn with."})


@dataclass(kw_only=True)
class SemiSupervisedArguments(LongTailedArguments):
    """Options of a recipe whose data have an unlabelled part too."""

    imbalance_factor: float = field(
        default=100,
        metadata={
            "help": "In a drawn split, labelled images of the largest class over those of the smallest (rho_l)."
        },
    )
    max_per_class: int | None = field(
        default=None,
        metadata={"help": "In a drawn split, labelled images of the largest class (N1)."},
    )
    unlabeled_max_per_class: int | None = field(
        default=None, metadata={"help": "In a drawn split, unlabelled images of their largest class (M1)."}
    )
    unlabeled_imbalance_factor: float = field(
        default=100,
        metadata={"help": "In a drawn split, imbalance of the unlabelled images (rho_u); 1: uniform, 0.01: inverted."},
    )
    use_unlabeled: bool = field(
        default=True, metadata={"help": "Draw the second samples of SelMix's pairs from the unlabelled images."}
    )


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

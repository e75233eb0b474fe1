"""A user's own data, images or texts: which column has them, and which splits are made and which are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Value

from selmix_hf.data.examples import image_columns
from selmix_hf.data.labels import class_labels, infer_label_column
from selmix_hf.data.modality import Images, Texts
from selmix_hf.models.loading import load_splits
from selmix_hf.reports.tables import said_of
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import LongTailedArguments, drawn_data

_NOT_GIVEN: Any = None
_OF_DRAWING = ("split", "imbalance_factor", "max_per_class", "validation_per_class", "split_seed")


@dataclass(kw_only=True)
class OwnDataArguments(LongTailedArguments):
    """Options of a recipe on a user's own data.

    Data with a validation split are taken as they are, unless an option that says how to draw one is given.
    """

    dataset: str = field(metadata={"help": "The data: a Hub id, or a folder with train.parquet, test.parquet, ..."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images; default: the only one there is."}
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the texts; default: the only one with strings, where there are no images."},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens after which a text is cut; default: what the tokenizer says, 512 at most."},
    )
    imbalance_factor: float = field(
        default=_NOT_GIVEN,
        metadata={
            "help": "In a drawn split, training samples of the largest class over those of the smallest; default: 100."
        },
    )
    validation_per_class: int = field(
        default=_NOT_GIVEN,
        metadata={"help": "In a drawn split, samples of each class that are set aside for validation; default: 500."},
    )
    split_seed: int = field(default=_NOT_GIVEN, metadata={"help": "Seed that a split is drawn with; default: 0."})


def load_own(arguments: OwnDataArguments, needed: Sequence[str]) -> tuple[DatasetDict, Images | Texts]:
    """The splits that are needed, and what is in them; "validation" is among them where all are taken as they are.

    Args:
        arguments: what is not given about drawing is set to its default where something must be drawn.
        needed: "train" and what else cannot be made.

    Raises:
        FileNotFoundError, ValueError: as `loading.load_splits`; columns among which to choose, of another kind or not
            there, a sample that is missing.
    """
    as_it_is = all(getattr(arguments, name) is None for name in _OF_DRAWING)
    dataset = load_splits(arguments.dataset, needed, optional=["validation"] * as_it_is)
    if "validation" not in dataset:
        for option in fields(LongTailedArguments):
            if getattr(arguments, option.name) is None:
                setattr(arguments, option.name, option.default)
    column, modality = _column_of(arguments, dataset)
    others = [str(name) for name in image_columns(dataset["train"]) if name != column]
    dataset = dataset.remove_columns(others)  # the trainer would look at them
    for part, split in dataset.items():
        modality.check(split, f"the split {part} of the dataset {arguments.dataset!r}")
    return dataset, modality


def _column_of(arguments: OwnDataArguments, dataset: DatasetDict) -> tuple[str, Images | Texts]:
    features = dataset["train"].features
    images = [str(name) for name in image_columns(dataset["train"])]
    texts = [
        name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype in ("string", "large_string")
    ]
    if arguments.image_column is not None and arguments.text_column is not None:
        raise ValueError("image_column and text_column are for one classifier each: give one of them.")
    for option, found, kind in (("image_column", images, "images"), ("text_column", texts, "strings")):
        given = getattr(arguments, option)
        if given is not None and given not in found:
            raise ValueError(
                f"{option}: the dataset {arguments.dataset!r} has no column {given!r} of {kind}; those it has are "
                f"{', '.join(found) or 'none'}, among {', '.join(features)}."
            )
    if arguments.image_column is not None or (arguments.text_column is None and len(images) == 1):
        if arguments.max_length is not None:
            raise ValueError("max_length counts the tokens of texts, and these are images: leave it out.")
        return arguments.image_column or images[0], Images()
    if arguments.text_column is not None or (not images and len(texts) == 1):
        column = arguments.text_column or texts[0]
        return column, Texts(column=column, max_length=arguments.max_length)
    raise ValueError(
        f"which column of {arguments.dataset!r} is to be classified? Columns of images: "
        f"{', '.join(images) or 'none'}; of texts: {', '.join(texts) or 'none'}; all: {', '.join(features)}. Name it "
        "by --image_column or --text_column."
    )


def own_data(
    arguments: OwnDataArguments, dataset: DatasetDict, modality: Images | Texts, folder: Path, name: str
) -> BenchmarkData:
    """The data as they are where there is a validation split; else made long-tailed, with split.json in the folder.

    Args:
        arguments: say how to draw, or which split to read.
        dataset, modality: of `load_own`.
        folder: of the run.
        name: of the dataset, for people.

    Raises:
        FileNotFoundError, ValueError: as `drawn_splits.split_images`; a class without samples, bad labels.
    """
    if "validation" in dataset:
        digest = digest_of(dataset, modality, arguments.label_column)
        remark = "All splits are the dataset's own: nothing was made long-tailed."
        return BenchmarkData(
            dataset, digest, name, remark=remark, own_label_column=arguments.label_column, modality=modality
        )
    try:
        data = drawn_data(arguments, dataset, folder, name)
    except ValueError as error:
        raise ValueError(said_of(modality.samples, str(error))) from error
    made = "made long-tailed here" if arguments.split is None else f"split as {Path(arguments.split).name} says"
    return replace(data, modality=modality, remark=f"The training {modality.samples} were {made}.")


def digest_of(splits: DatasetDict, modality: Images | Texts, label_column: str | None = None) -> str:
    """sha256 of the samples of every split with their classes, in order, and of the classes' names."""
    column = label_column or infer_label_column(splits["train"])
    digest = hashlib.sha256(json.dumps(getattr(splits["train"].features.get(column), "names", None)).encode())
    for part, dataset in splits.items():
        digest.update(json.dumps([part, len(dataset)]).encode())
        for sample, label in zip(modality.digests(dataset), class_labels(dataset, column), strict=True):
            digest.update(f"{sample} {label}\n".encode())
    return digest.hexdigest()

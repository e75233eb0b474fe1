"""What others made, batched for this package: a collator of the user's own, the datasets of torch and torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from datasets import Image

from selmix_hf.data.labels import whole
from selmix_hf.data.pixels import CUSTOMARY, feature_holds_images, holds_image, is_encoded
from selmix_hf.data.random_state import isolated_random_state

Column = str | int  # key of an example, or the place in an example that is a tuple
_INPUTS = ("pixel_values", "input_values", "input_features")  # of a model, made already


def first_item(dataset: Any) -> Any:
    """The first example, whatever is random in it drawn aside from the global state."""
    with isolated_random_state(0):
        return dataset[0]


def has_features(dataset: Any) -> bool:
    """Whether columns have types, as a `datasets.Dataset`'s; other sets may have an attribute of that name."""
    return isinstance(getattr(dataset, "features", None), Mapping)


def image_columns(dataset: Any) -> list[Column]:
    """Where an example holds an image: the `Image` columns of a `datasets.Dataset`, whatever their names, or else
    those that hold pixels (`pixels.feature_holds_images`); of any other dataset, the keys or places of images in its
    first item (`pixels.holds_image`). Beside the inputs of a model, such as pixel_values, nothing else is an image."""
    if has_features(dataset):
        columns = dataset.features.items()
        images: list[Column] = [name for name, kind in columns if isinstance(kind, Image)]
        images = images or [name for name, kind in columns if feature_holds_images(name, kind)]
        made = [name for name in _INPUTS if name in dataset.features]
    else:
        example = first_item(dataset)
        items = example.items() if isinstance(example, Mapping) else enumerate(example) if is_tuple(example) else ()
        images = [name for name, value in items if holds_image(value, name in (0, *CUSTOMARY))]
        made = [name for name in _INPUTS if has_column(example, name)]
    return [name for name in images if name in made] if made else images


def is_tuple(example: Any) -> bool:
    """Whether an example is a pair (image, class), as those of torchvision's datasets."""
    return isinstance(example, tuple | list) and len(example) == 2


def collate_tuples(examples: Sequence[Sequence[Any]]) -> dict[str, torch.Tensor]:
    """Batch (pixels, class) pairs into pixel_values and labels."""
    pixels, _ = zip(*examples, strict=True)
    classes = torch.as_tensor([class_of(example, 1) for example in examples])
    return {"pixel_values": torch.stack(list(map(torch.as_tensor, pixels))), "labels": classes}


def collate_inputs(examples: Sequence[Any]) -> dict[str, Any]:
    """Batch inputs of the model as Trainer does by default, without images beside them, which that cannot batch."""
    from transformers import default_data_collator

    if isinstance(examples[0], Mapping):
        images = {n for n, value in examples[0].items() if isinstance(value, PIL.Image.Image) or is_encoded(value)}
        examples = [{name: value for name, value in row.items() if name not in images} for row in examples]
    return dict(default_data_collator(list(examples)))


def inputs_of(model: Any) -> set[str] | None:
    """Names of what a model's forward takes; None where it takes anything, or there is no model."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft
    parts: list[Any] = [
        model,
        getattr(model, "timm_model", None),
    ]  # the wrapper of timm's models passes on what it gets
    names: set[str] = set()
    for part in parts:
        if not hasattr(part, "forward"):
            return None
        takes = inspect.signature(part.forward).parameters
        names |= set(takes)
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in takes.values()):
            return names
    return None


def value_of(example: Any, column: Column, what: str) -> Any:
    """What an example has in a column.

    Raises:
        ValueError: it has no such column.
    """
    try:
        return example[column]
    except (KeyError, IndexError, TypeError) as error:
        if isinstance(example, Mapping) != isinstance(column, str):
            kinds = "pairs (image, class)", "mappings with named fields"
            of_training, here = kinds if isinstance(example, Mapping) else kinds[::-1]
            raise ValueError(
                f"the examples of the training and gain sets are {of_training}, those of this set {here} (found a "
                f"{type(example).__name__}): give all sets examples of one kind, such as "
                "{'image': image, 'label': label}."
            ) from error
        found = ", ".join(map(str, example)) if isinstance(example, Mapping) else f"{len(example)} values"
        raise ValueError(
            f"expected the {what} of an example in {column!r}, as in the training and gain sets, found {found}: call "
            "rename_column on the dataset first."
        ) from error


def class_of(example: Any, column: Column) -> int:
    """The class of an example, also where it is the one number of an array.

    Raises:
        ValueError: it is not an integer.
    """
    try:
        return whole(example[column])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the labels in {column!r} must be integers, found {example[column]!r}: see class_encode_column for "
            "names, and filter rows without a label out."
        ) from error


def has_column(example: Any, column: Column) -> bool:
    return column in example if isinstance(example, Mapping) else isinstance(column, int) and column < len(example)


def is_stream(dataset: Any) -> bool:
    """Whether it has no random access; so nothing has."""
    return isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__len__")


def require_random_access(dataset: Any, name: str) -> None:
    if isinstance(dataset, str | Mapping):
        found = f"several ({', '.join(dataset)}): give one" if isinstance(dataset, Mapping) else repr(dataset)
        raise TypeError(f"{name} must be one dataset that is loaded, found {found}.")
    if is_stream(dataset):
        raise TypeError(
            f"{name} is a {type(dataset).__name__}: a streaming dataset has no random access, which sampling by "
            "class needs. Load it without streaming=True, or materialise it by Dataset.from_list(list(dataset))."
        )

"""Which column holds the class, and the class of every row, read fast and without running a transform.

Shape suffix in the docstrings: [N], one entry a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset, IterableDatasetDict, Value
from numpy.typing import NDArray

LABEL_NAMES = ("label", "labels", "fine_label", "target", "targets")
MOST_CLASSES = 1_000_000  # where no names say how many: each number up to the largest label takes memory


def label_candidates(dataset: Dataset) -> list[str]:
    """The columns that can hold a class: ClassLabel columns, and columns of integers or of lists of one, with a
    customary name (label, labels, fine_label, target, targets). Lists of any length, which may have several classes,
    are candidates only where nothing else is."""
    found = {
        str(name): feature
        for name, feature in dataset.features.items()
        if isinstance(feature, ClassLabel) or (name in LABEL_NAMES and _can_be_class(feature))
    }
    single = [
        n for n, feature in found.items() if not hasattr(feature, "feature") or getattr(feature, "length", None) == 1
    ]
    return single or list(found)


def infer_label_column(dataset: Dataset) -> str:
    """The column that holds the class.

    Of the `label_candidates` a single one is taken; among several, the one called "label" or "labels".

    Raises:
        ValueError: no candidate, or several (the message names them).
        TypeError: not a `datasets.Dataset`.
    """
    require_dataset(dataset)
    candidates = label_candidates(dataset)
    customary = [name for name in candidates if name in ("label", "labels")]
    for found in (candidates, customary):
        if len(found) == 1:
            return found[0]
    if candidates:
        raise ValueError(f"which column holds the class? {', '.join(candidates)} all could; pass label_column")
    raise ValueError(
        f"no label column found among {', '.join(dataset.column_names)}: expected a ClassLabel column or integers in "
        f"one of {', '.join(LABEL_NAMES)}; pass label_column, or use class_encode_column for a column of strings"
    )


def class_labels(dataset: Any, label_column: str | None = None) -> np.ndarray:
    """The class of every row, as int64 of shape [N]. No image is decoded and no transform of the dataset runs.

    Args:
        dataset: a `datasets.Dataset`. Of any other map-style dataset the attribute `targets` or `labels` is read, also
            through a `torch.utils.data.Subset`; without one, every `dataset[i][label_column]` is, or `dataset[i][1]`
            where items are pairs (slow: the whole item is loaded).
        label_column: inferred when None. Passed for a dataset that is not a `datasets.Dataset`, it is looked for as
            an attribute first.

    Raises:
        ValueError: labels that are missing, not integers, negative or beyond the ClassLabel's names.
        TypeError: a streaming dataset, a DatasetDict, or items without named fields.
    """
    column, values, names = _read(dataset, label_column)
    return checked_labels(np.asarray(values), len(dataset), column, names)


def _read(dataset: Any, label_column: str | None) -> tuple[str, Any, list[str] | None]:
    """The column, its values as they are, and the names of its classes."""
    if isinstance(dataset, Dataset):
        column = label_column or infer_label_column(dataset)
        require_column(dataset, column)
        feature = dataset.features[column]
        if not isinstance(feature, ClassLabel) and not _can_be_class(feature):
            raise ValueError(f"column {column!r} holds {feature}, not an integer class; see class_encode_column")
        names = feature.names if isinstance(feature, ClassLabel) else None
        # with_format replaces a with_transform; reading dataset[column] would run the transform on every row
        return column, dataset.with_format("numpy")[column][:], names
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # a torch.utils.data.Subset
        column, values, names = _read(dataset.dataset, label_column)
        return column, np.asarray(values)[np.asarray(dataset.indices, dtype=np.int64)], names
    return (*_map_style_labels(dataset, label_column), None)


def _map_style_labels(dataset: Any, label_column: str | None) -> tuple[str, Any]:
    if isinstance(dataset, (IterableDataset, IterableDatasetDict)) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"a {type(dataset).__name__} has no random access, which sampling by class needs: load it without "
            "streaming=True, or materialise it with Dataset.from_list(list(dataset))"
        )
    if isinstance(dataset, Mapping):
        raise TypeError(f"expected one dataset, got several: pass one of {', '.join(map(repr, dataset))}")
    for name in (label_column,) if label_column else ("targets", "labels"):
        if hasattr(dataset, name):
            return name, getattr(dataset, name)
    item = dataset[0] if len(dataset) else ()
    if isinstance(item, tuple | list) and len(item) == 2 and not label_column:  # as torchvision's: (image, class)
        return "the second place of an item", [whole(dataset[i][1]) for i in range(len(dataset))]
    wanted = (label_column,) if label_column else LABEL_NAMES
    known = [name for name in wanted if isinstance(item, Mapping) and name in item]
    if not known:
        raise TypeError(
            f"cannot read the labels of a {type(dataset).__name__}: it has no attribute 'targets' or 'labels', and "
            f"its items no field {' or '.join(wanted)}. Give it an attribute 'targets'"
        )
    return known[0], [dataset[i][known[0]] for i in range(len(dataset))]


def checked_labels(labels: np.ndarray, num_rows: int, column: str, names: Sequence[str] | None) -> np.ndarray:
    labels = labels[:, 0] if labels.shape == (num_rows, 1) else labels  # as MedMNIST has them
    if labels.shape != (num_rows,):
        raise ValueError(f"expected one label a row, {num_rows} in all; {column!r} has shape {list(labels.shape)}")
    if num_rows and labels.dtype.kind not in "iu":  # integers with missing values arrive as floats with nan
        raise ValueError(f"the labels in {column!r} are missing in places or not integers (read as {labels.dtype})")
    labels = labels.astype(np.int64)
    limit = MOST_CLASSES if names is None else len(names)
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        allowed = f"0 or more, below {limit:,} without names" if names is None else f"0 to {limit - 1}"
        raise ValueError(
            f"labels in {column!r} must be {allowed}; {wrong.size} are not, the first is {labels[wrong[0]]} in row "
            f"{wrong[0]} (-1 is customary for unlabelled data: filter those rows out)"
        )
    return labels


def whole(value: Any) -> int:
    """The integer that a number, or an array of one, is.

    Raises:
        ValueError: it is none; 2.0 is, 0.7 is not.
    """
    number = np.asarray(value).item()
    if not isinstance(number, int | float) or number % 1 != 0:  # NaN neither
        raise ValueError(f"the class of an item must be an integer, found {number!r}")
    return int(number)


def is_integer(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


def _can_be_class(feature: Any) -> bool:
    """An integer, or a list of one."""
    return is_integer(getattr(feature, "feature", feature))


def item_label_column(example: Any) -> str | None:
    """The field of an item that holds the class, by the customary names; None where there is none."""
    return next((name for name in LABEL_NAMES if isinstance(example, Mapping) and name in example), None)


def require_dataset(dataset: Any) -> None:
    if not isinstance(dataset, Dataset):
        parts = f" of {', '.join(map(repr, dataset))}: pass one of them" if isinstance(dataset, Mapping) else ""
        found = f"a {type(dataset).__name__}{parts}"
        raise TypeError(f"expected a datasets.Dataset (a single one, not streaming), got {found}")


def require_column(dataset: Dataset, column: str) -> None:
    if column not in dataset.column_names:
        raise ValueError(f"no column {column!r} in the dataset; it has {', '.join(dataset.column_names)}")


def excerpt(names: Sequence[str]) -> str:
    return f"{len(names)} names ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def first_of_each(
    rows: NDArray[np.int64], labels: NDArray[np.int64], counts: Sequence[int] | NDArray[np.integer]
) -> NDArray[np.int64]:
    """Of some rows the first counts[k] of each class k, or as many as there are; one class after the other.

    Args:
        rows: indices into `labels`, in the order that decides which come first.
        labels: [N].
        counts: one number a class.
    """
    labels_of_rows = labels[rows]
    return np.concatenate([rows[labels_of_rows == k][:count] for k, count in enumerate(counts)])

"""Which class has which number: one name is one class, whatever number a dataset gives it.

Names are compared without regard to case, spaces, underscores and hyphens. Shape suffixes: N samples, K classes of the
model, L classes that a dataset names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features
from numpy.typing import NDArray
from transformers.utils import logging

from selmix_hf.data.bad_images import read_one
from selmix_hf.data.examples import Column, class_of, has_column, is_tuple
from selmix_hf.data.labels import class_labels, excerpt, item_label_column
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.data.seeded import ChangedItems

logger = logging.get_logger(__name__)

_SHOWN = 3
_LOOKED_AT = 8  # items, of as many classes


def folded(*lists: Sequence[str]) -> list[list[str]]:
    """Lists of names as they are compared: without case, spaces, underscores and hyphens, unless two names of one list
    would become the same."""
    short = [[re.sub(r"[\s_-]+", "", name).casefold() for name in names] for names in lists]
    if all(len(set(names)) == len(set(given)) for names, given in zip(short, lists, strict=True)):
        return short
    return [[name.strip() for name in names] for names in lists]


def are_numbers(names: Sequence[str]) -> bool:
    """Whether the names are "0", "1", ...: no more than the numbers themselves."""
    return list(names) == [str(k) for k in range(len(names))]


def at_two_numbers(names: Sequence[str], own: Sequence[str]) -> list[int]:
    """The classes in `own` (L) whose names stand at another number in `names` (K)."""
    known_K, own_L = folded(names, own)
    known = set(known_K)
    return [k for k, name in enumerate(own_L) if name in known and known_K[k : k + 1] != [name]]


def numbers_by_name(
    names: Sequence[str], own: Sequence[str], used: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The number in `names` of each class in `own`, shape L.

    Args:
        names: K, whose numbers count.
        own: L, of a dataset.
        used: which of `own` have samples, shape L; the others may be unknown, and get -1. None: all.

    Raises:
        ValueError: a class that has samples is not in `names`, or shares its name.
    """
    known_K, own_L = folded(names, own)
    often, often_own = Counter(known_K), Counter(own_L)
    number_of = {name: k for k, name in enumerate(known_K) if often[name] == often_own[name] == 1}
    numbers_L = np.array([number_of.get(name, -1) for name in own_L], np.int64)
    unknown = [own[k] for k in np.flatnonzero(numbers_L < 0).tolist() if used is None or used[k]]
    if unknown:
        k = at_two_numbers(names, own)[0]
        raise ValueError(
            f"{own[k]!r} is class {known_K.index(own_L[k])} of {excerpt(names)} and class {k} of {excerpt(own)}, and "
            f"{unknown[0]!r} is not one class of both: labels can be read neither by number nor by name"
        )
    return numbers_L


class Renumbered(ChangedItems):
    """A map-style dataset whose classes have other numbers than it gives them.

    Args:
        dataset: its items are mappings, or pairs (input, class).
        column: key of the class in an item that is a mapping; a customary one is found where there is no such key.
        numbers: the new number of each class, shape L; -1 for classes without samples.
        names: of the classes by their new numbers, K.
        own: the names that the dataset gives, L.
        labels: the classes as the dataset has them, shape N.
    """

    def __init__(
        self,
        dataset: Any,
        column: str | None,
        numbers: NDArray[np.int64],
        names: Sequence[str],
        own: Sequence[str],
        labels: NDArray[np.int64],
    ) -> None:
        super().__init__(dataset)
        self.column, self.numbers, self.labels = column, numbers, numbers[labels]
        self.classes, self.own_names = list(names), list(own)
        if hasattr(dataset, "_fingerprint"):  # features do not depend on it
            self._fingerprint = dataset._fingerprint

    def __getattr__(self, name: str) -> Any:
        if name == self.__dict__.get("column"):  # where `labels.class_labels` looks first
            return self.labels
        raise AttributeError(name)

    def changed(self, item: Any) -> Any:
        column = _place_of_class(item, self.column)
        if isinstance(column, int):
            return item[0], self._number(item, column)
        assert column is not None  # `renumbered` looked
        return {**item, column: self._number(item, column)}

    def _number(self, item: Any, column: Column) -> Any:
        """The new number, as a tensor or array where the old one is."""
        number, old = int(self.numbers[class_of(item, column)]), item[column]
        if isinstance(old, torch.Tensor):
            return torch.full_like(old, number, dtype=torch.int64)
        is_numpy = isinstance(old, np.ndarray | np.generic)
        return np.full_like(old, number, dtype=np.int64)[()] if is_numpy else number


def _place_of_class(item: Any, column: str | None) -> Column | None:
    """Where an item has its class; None where that is not known."""
    if is_tuple(item):
        return 1
    return column if column and has_column(item, column) else item_label_column(item)


def require_same_in_items(
    dataset: Any, labels: NDArray[np.int64], title: str, column: str | None, must_be_there: bool = False
) -> None:
    """Hold the class that some items have, which batches are made of, against the labels that were read.

    Args:
        dataset: map-style; one of `datasets` without a transform of its own gives what it has.
        labels: that were read, shape N.
        title: what the error calls it.
        column: key of the class, or None.
        must_be_there: whether an item without a class that can be found is an error too.

    Raises:
        ValueError: another class, such as by torchvision's target_transform.
    """
    is_plain = isinstance(dataset, Dataset) and dataset.format["type"] != "custom"
    if is_plain or isinstance(dataset, Renumbered):
        return
    rows = np.sort(np.unique(labels, return_index=True)[1])[:_LOOKED_AT]
    for row in rows.tolist():
        with isolated_random_state(0):
            item = read_one(dataset, row)
        place = _place_of_class(item, column)
        value = None if place is None else np.asarray(item[place])
        if value is None or value.size != 1 or value.dtype.kind not in "iu":  # soft labels, or a collator finds them
            if must_be_there:
                raise ValueError(
                    f"{title} numbers its classes otherwise than the model, and its items have no class where it "
                    "can be renumbered: give pairs (input, class), mappings with 'labels', or the model's numbers."
                )
            return
        if int(value.item()) != labels[row]:
            raise ValueError(
                f"{title}: the item of row {row} has class {int(value.item())}, its labels say {labels[row]}: a "
                "transform gives classes other numbers. Leave it out, or give a dataset whose labels are the same."
            )


def new_numbers(
    labels: NDArray[np.int64], title: str, names: Sequence[str], own: Sequence[str], whose: str = "the model"
) -> NDArray[np.int64] | None:
    """The number in `names` of each class in `own`, shape L, which is said; None where none has another.

    Args:
        labels: as a dataset has them, shape N; `title` is what messages call it.
        names: K, those of `whose`.
        own: L, those of the dataset.

    Raises:
        ValueError: labels beyond `own`, or as `numbers_by_name`.
    """
    if not at_two_numbers(names, own):
        _say_where_names_differ(title, whose, names, own)
        return None
    used_L = np.bincount(labels, minlength=len(own)) > 0
    if len(used_L) > len(own):
        raise ValueError(f"{title} has a label {len(used_L) - 1}, but names {excerpt(own)}.")
    try:
        numbers_L = numbers_by_name(names, own, used_L)
    except ValueError as error:
        raise ValueError(
            f"{title} and {whose} number their classes differently: {error}. Give both the same names, by "
            "cast_column(label_column, ClassLabel(names=...)) with the names that the numbers stand for."
        ) from error
    moved = [k for k in np.flatnonzero(used_L).tolist() if numbers_L[k] != k]
    if not moved:
        return None
    shown = ", ".join(f"{own[k]!r} is {k} there and {numbers_L[k]} here" for k in moved[:_SHOWN])
    logger.warning(
        f"{title} numbers its classes otherwise than {whose}: {shown}{', ...' * (len(moved) > _SHOWN)}. Its labels "
        "are read by name."
    )
    return numbers_L


def renumbered(
    dataset: Any,
    title: str,
    names: Sequence[str],
    own: Sequence[str],
    label_column: str | None,
    whose: str = "the model",
) -> Any:
    """A dataset whose classes have the numbers that they have in `names`: itself, or a `Renumbered` one.

    Args:
        dataset: labelled.
        title, names, own, whose: as for `new_numbers`, which is who says and raises.
        label_column: None where items say it.
    """
    if list(own) == list(names[: len(own)]):
        return dataset
    labels_N = class_labels(dataset, label_column) if at_two_numbers(names, own) else np.empty(0, np.int64)
    numbers_L = new_numbers(labels_N, title, names, own, whose)
    if numbers_L is None:
        return dataset
    require_same_in_items(dataset, labels_N, title, label_column, must_be_there=True)
    return Renumbered(dataset, label_column, numbers_L, names, own, labels_N)


def _say_where_names_differ(title: str, whose: str, names: Sequence[str], own: Sequence[str]) -> None:
    """Numbers that are called otherwise may be other classes, or the same ones in other words."""
    if are_numbers(names) or are_numbers(own):
        return
    differing = [k for k, pair in enumerate(zip(*folded(names, own), strict=False)) if pair[0] != pair[1]]
    if differing:
        shown = ", ".join(f"class {k} is {own[k]!r} there and {names[k]!r} here" for k in differing[:_SHOWN])
        logger.warning_once(
            f"{title} has other names than {whose} for {len(differing)} of {len(names)} classes: {shown}"
            f"{', ...' * (len(differing) > _SHOWN)}. Its labels are read by number."
        )


def class_names_in(features: Features) -> dict[str, list[str]]:
    """The names of the classes in each ClassLabel column."""
    return {column: list(one.names) for column, one in features.items() if isinstance(one, ClassLabel)}


def with_classes_of(dataset: Dataset, title: str, features: Features, whose: str) -> Dataset:
    """A `datasets.Dataset` with the ClassLabel columns of another one: labels are numbered anew by name, also those
    that stand at no two numbers.

    Args:
        dataset: `title` is what messages call it; a column that is no ClassLabel in both stays as it is.
        features: of `whose`.

    Raises:
        ValueError: as `renumbered`; a class with samples beyond those of `whose`.
    """
    order, given = dataset.column_names, class_names_in(dataset.features)
    for column, names in class_names_in(features).items():
        own = given.get(column, names)
        if own == names:
            continue
        labels_N = class_labels(renumbered(dataset, title, names, own, column, whose), column)
        if len(labels_N) and labels_N.max() >= len(names):
            raise ValueError(f"{title} has samples of {own[labels_N.max()]!r}, but {whose} names {excerpt(names)}.")
        dataset = dataset.remove_columns(column).add_column(column, labels_N, feature=ClassLabel(names=names))
    return dataset.select_columns(order)

"""How labels and the names of classes are read, of a model and of any dataset, and held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset
from transformers.utils import logging

from selmix_hf.data.examples import first_item, has_column, has_features, is_stream
from selmix_hf.data.labels import class_labels, excerpt, infer_label_column, item_label_column, require_column
from selmix_hf.data.numbering import (
    Renumbered,
    are_numbers,
    at_two_numbers,
    folded,
    new_numbers,
    renumbered,
    require_same_in_items,
)
from selmix_hf.method.confusion import require_all_classes

logger = logging.get_logger(__name__)


def read_labels(
    dataset: Any,
    name: str,
    label_column: str | None,
    num_classes: int,
    names: list[str],
    all_classes: bool = True,
) -> NDArray[np.int64]:
    """The labels of a dataset, shape N, checked against the model's classes.

    Args:
        dataset: labelled, by the numbers that the classes have in the model, see `numbering`.
        name: what it is called in an error.
        label_column: found from the features where the dataset has no such column.
        num_classes: K.
        names: of the model's classes.
        all_classes: whether every class must be in it.

    Raises:
        ValueError: not integers, outside 0..K-1, other ones in the items, or (with `all_classes`) a class without a
            sample.
    """
    column = column_in(dataset, label_column)
    try:
        labels_N = class_labels(dataset, column)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    if len(labels_N) == 0:
        raise ValueError(f"{name} is empty.")
    own_names = dataset.own_names if isinstance(dataset, Renumbered) else names_of_data(dataset, column)
    if labels_N.max() >= num_classes:
        raise ValueError(
            f"{name}: the model has {num_classes} classes, but there is a label {labels_N.max()}. Load the model with "
            f"num_labels={max(labels_N.max() + 1, len(own_names))}, ignore_mismatched_sizes=True, or map the labels "
            f"to 0..{num_classes - 1}."
        )
    counts_K = np.bincount(labels_N, minlength=num_classes)
    if own_names and len(own_names) != num_classes and all_classes and not counts_K.all():
        raise ValueError(
            f"{name}: the model has {num_classes} outputs, but the dataset names {len(own_names)} classes. Load the "
            f"model with num_labels={len(own_names)}, ignore_mismatched_sizes=True."
        )
    if all_classes:
        require_all_classes(torch.as_tensor(counts_K), names, name)
    require_same_in_items(dataset, labels_N, name, column)
    return labels_N


def column_in(dataset: Any, label_column: str | None) -> str | None:
    """The label column where the dataset has it; None where it is to be found."""
    return label_column if label_column is not None and _has(dataset, label_column) else None


def _has(dataset: Any, column: str) -> bool:
    if hasattr(dataset, "column_names"):
        return column in (dataset.column_names or ())
    if hasattr(dataset, column) or len(dataset) == 0:
        return hasattr(dataset, column)
    example = first_item(dataset)  # a customary name is found anyway, and faster where there is an attribute
    return has_column(example, column) and item_label_column(example) != column


def names_of_data(dataset: Any, label_column: str | None) -> list[str]:
    """The names in the dataset's ClassLabel column or, as torchvision has it, its attribute `classes`, also through a
    `torch.utils.data.Subset`; else none."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        return names_of_data(dataset.dataset, label_column)
    if isinstance(dataset, ConcatDataset):
        first, *others = [names_of_data(part, label_column) for part in dataset.datasets]
        if any(names != first for names in others):
            raise TypeError("the parts of a ConcatDataset name their classes differently: join them by name first.")
        return first
    if not isinstance(features := getattr(dataset, "features", None), Mapping):
        return _names_in_attribute(getattr(dataset, "classes", None))
    column = infer_label_column(dataset) if label_column is None else label_column
    return [str(name) for name in getattr(features.get(column), "names", None) or []]


def _names_in_attribute(classes: Any) -> list[str]:
    """Of a list, of tuples of synonyms as ImageNet's in torchvision, or of a mapping from names to numbers."""
    if isinstance(classes, Mapping):
        classes = sorted(classes, key=lambda name: classes[name])
    if classes is None or isinstance(classes, str) or not hasattr(classes, "__iter__"):
        return []
    return [", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in classes]


def label_column_of(dataset: Any, label_column: str | None) -> str:
    """The column that holds the class, "labels" for datasets whose items have no field of a customary name."""
    if label_column is not None:
        if isinstance(dataset, Dataset) and dataset.format["type"] != "custom":  # a transform may make it
            require_column(dataset, label_column)
        return label_column
    return infer_label_column(dataset) if has_features(dataset) else item_label_column(first_item(dataset)) or "labels"


def default_names(num_classes: int) -> list[str]:
    """What transformers calls the K classes of a model that names none."""
    return [f"LABEL_{k}" for k in range(num_classes)]


def resolve_class_names(
    model: Any, dataset: Any, label_column: str, num_classes: int, class_order: Sequence[str | int] | None = None
) -> list[str]:
    """Names of the K classes as the model numbers them: its own, or the dataset's, which the model then gets.

    The dataset's are taken where the model has none, or others altogether, or a head that is new and so knows no
    class; this is said where names give way.

    Args:
        model: whose config has the names.
        dataset: train_dataset.
        label_column: of it.
        num_classes: K.
        class_order: names of the dataset's classes, or their numbers in it, in the order of the model's outputs.

    Raises:
        ValueError: one class only, or a class_order that is not all K classes once.
    """
    if num_classes < 2:
        raise ValueError(f"the model has {num_classes} output: SelMix needs a classifier with at least two classes.")
    config = getattr(model, "config", None)
    id2label = getattr(config, "id2label", None) or {}
    default = default_names(num_classes)
    of_model = [str(id2label.get(k, name)) for k, name in enumerate(default)]
    of_data = names_of_data(dataset, label_column)
    names = of_model
    if class_order is not None:
        names = _in_order(class_order, of_data or [str(k) for k in range(num_classes)], num_classes)
    elif len(of_data) == num_classes and of_model == default:
        names = of_data
    elif len(of_data) == num_classes and not are_numbers(of_data) and _gives_way(model, of_model, of_data):
        logger.warning(
            f"the model names {excerpt(of_model)} and train_dataset {excerpt(of_data)}: other classes, so the model "
            "gets the names of train_dataset. Where they are the same classes in other words, check their order."
        )
        names = of_data
    of_config = getattr(config, "label_names", None)  # of the checkpoint that this model began with
    if config is not None and (names != of_model or of_config not in (None, names)):
        set_class_names(config, names)
    return names


def _gives_way(model: Any, of_model: list[str], of_data: list[str]) -> bool:
    """Whether the names of a model are of other classes than the dataset's: they have none in common, or the head is
    new and labels can be read neither by number nor by name."""
    known, found = folded(of_model, of_data)
    if set(known).isdisjoint(found):
        return True
    return bool(at_two_numbers(of_model, of_data)) and set(known) != set(found) and _has_new_head(model, len(known))


def _has_new_head(model: Any, num_classes: int) -> bool:
    """Whether a layer with K outputs has biases that are all 0, as a layer begins with."""
    layers = [] if not hasattr(model, "modules") else list(model.modules())
    biases = [
        layer.bias
        for layer in layers
        if isinstance(getattr(layer, "bias", None), torch.Tensor)
        and getattr(layer, "weight", torch.empty(0)).dim() > 1
        and layer.bias.shape == (num_classes,)
    ]
    return bool(biases) and not biases[-1].any()


def _in_order(order: Sequence[str | int], names: list[str], num_classes: int) -> list[str]:
    """The names of the classes in a given order, of names or numbers."""
    given = [names[one] if isinstance(one, int | np.integer) and 0 <= one < len(names) else str(one) for one in order]
    known, found = folded(names, given)
    if sorted(found) != sorted(known) or len(given) != num_classes:
        raise ValueError(
            f"class_order must have each of {excerpt(names)} of train_dataset once, in the order of the model's "
            f"{num_classes} outputs; found {excerpt(list(map(str, order)))}."
        )
    name_of = dict(zip(known, names, strict=True))
    return [name_of[name] for name in found]


class Numbering:
    """Which number each class has in a run: that of the model, whose names the model then has.

    Args:
        model, train_dataset, label_column, num_classes, class_order: see `resolve_class_names`.

    Attributes:
        names: of the model's classes, K; where neither it nor train_dataset has any, the first set's that has them.
    """

    def __init__(
        self,
        model: Any,
        train_dataset: Any,
        label_column: str,
        num_classes: int,
        class_order: Sequence[str | int] | None = None,
    ) -> None:
        self.label_column, self._config = label_column, getattr(model, "config", None)
        self.names = resolve_class_names(model, train_dataset, label_column, num_classes, class_order)
        own = names_of_data(train_dataset, label_column)
        # what class_order says of a train_dataset without names: its number of each class
        self._order = [int(name) for name in self.names] if class_order is not None and not own else None
        own = own or ([] if self._order is None else [str(k) for k in range(num_classes)])
        self._unnamed = own if at_two_numbers(self.names, own) else []  # of a set without names
        self._made: dict[int, Renumbered] = {}  # by the id of the set, which it keeps alive

    def of(self, dataset: Any, title: str) -> Any:
        """A labelled dataset with these numbers: itself, or where its names say others, a `numbering.Renumbered` one.
        A set that names no classes has the numbers of train_dataset.

        Args:
            dataset: `title` is what messages call it.

        Raises:
            ValueError: as `numbering.renumbered`.
        """
        if any(dataset is made for made in self._made.values()):
            return dataset
        if id(dataset) in self._made:
            return self._made[id(dataset)]
        column = self.label_column if is_stream(dataset) else column_in(dataset, self.label_column)
        own = self._names_in(dataset, column)
        if len(own) == len(self.names) and own != self._unnamed:
            self._take_names(own)
        if is_stream(dataset):
            if at_two_numbers(self.names, own):
                raise ValueError(
                    f"{title} is a stream whose classes, {excerpt(own)}, stand at other numbers than the model's, "
                    f"{excerpt(self.names)}: load it without streaming=True, so that its labels can be read by name."
                )
            return dataset
        made = renumbered(dataset, title, self.names, own, column)
        if isinstance(made, Renumbered):
            self._made[id(dataset)] = made
        return made

    def _take_names(self, own: list[str]) -> None:
        """Those of the first set that has some, where neither the model nor train_dataset has."""
        if self._order is not None:
            self.names, self._unnamed, self._order = [own[k] for k in self._order], own, None
        elif self.names == default_names(len(own)):
            self.names = own
        else:
            return
        if self._config is not None:
            set_class_names(self._config, self.names)

    def of_labels(self, labels: NDArray[np.int64], dataset: Any, title: str) -> NDArray[np.int64]:
        """Labels by these numbers, shape N, that were given by those of a dataset. Raises as `of`."""
        own = self._names_in(dataset, column_in(dataset, self.label_column))
        numbers_L = new_numbers(labels, title, self.names, own)
        return labels if numbers_L is None else numbers_L[labels]

    def _names_in(self, dataset: Any, column: str | None) -> list[str]:
        try:
            return names_of_data(dataset, column) or self._unnamed
        except ValueError:  # no labels, or not known which: for who reads them
            return self._unnamed


def set_class_names(config: Any, names: Sequence[str]) -> None:
    """Give a model's config the names of its classes, so that they are saved with it."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: k for k, name in enumerate(names)}
    if hasattr(config, "label_names"):  # of a wrapped timm model, which saves these and not id2label
        config.label_names = list(names)


def names_of_column(dataset: Dataset, label_column: str | None) -> list[str] | None:
    feature = dataset.features[label_column or infer_label_column(dataset)]
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def class_name(k: int, label_names: Sequence[str] | None) -> str:
    return f"{label_names[k]!r} ({k})" if label_names and k < len(label_names) else str(k)

"""How labels and the names of classes are read, of a model and of any dataset, and held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray

from selmix_hf.data.examples import first_item, has_column, has_features
from selmix_hf.data.labels import class_labels, infer_label_column, item_label_column, require_column
from selmix_hf.method.confusion import require_all_classes


def read_labels(
    dataset: Any,
    name: str,
    label_column: str | None,
    num_classes: int,
    names: list[str],
    all_classes: bool = True,
    like: Any = None,
) -> NDArray[np.int64]:
    """The labels of a dataset, shape N, checked against the model's classes.

    Args:
        dataset: labelled.
        name: what it is called in an error.
        label_column: found from the features where the dataset has no such column.
        num_classes: K.
        names: of the model's classes.
        all_classes: whether every class must be in it.
        like: a dataset whose classes must stand in the same order.

    Raises:
        ValueError: not integers, outside 0..K-1, the same class names in another order, or (with `all_classes`) a
            class without a sample.
    """
    column = label_column if label_column is not None and _has(dataset, label_column) else None
    try:
        labels_N = class_labels(dataset, column)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    if len(labels_N) == 0:
        raise ValueError(f"{name} is empty.")
    own_names = names_of_data(dataset, column)
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
    for whose, others in (("the model", names), ("train_dataset", names_of_data(like, label_column))):
        k = first_misplaced(others, own_names)
        if k is not None:
            raise ValueError(
                f"{whose} and {name} have the same classes in another order: class {k} is {others[k]!r} in {whose} "
                f"and {own_names[k]!r} in {name}. Call align_labels_with_mapping on {name} first, with the names and "
                f"numbers of {whose}."
            )
    if all_classes:
        require_all_classes(torch.as_tensor(counts_K), names, name)
    return labels_N


def _has(dataset: Any, column: str) -> bool:
    if hasattr(dataset, "column_names"):
        return column in (dataset.column_names or ())
    if hasattr(dataset, column) or len(dataset) == 0:
        return hasattr(dataset, column)
    example = first_item(dataset)  # a customary name is found anyway, and faster where there is an attribute
    return has_column(example, column) and item_label_column(example) != column


def names_of_data(dataset: Any, label_column: str | None) -> list[str]:
    """The names in the dataset's ClassLabel column or, as torchvision has it, its attribute `classes`; else none."""
    if not isinstance(features := getattr(dataset, "features", None), Mapping):
        return [str(name) for name in getattr(dataset, "classes", None) or []]
    column = infer_label_column(dataset) if label_column is None else label_column
    return [str(name) for name in getattr(features.get(column), "names", None) or []]


def first_misplaced(names: list[str], others: list[str]) -> int | None:
    """The first place where the same names (upper or lower case) stand in another order."""
    lower, lower_others = ([name.lower() for name in given] for given in (names, others))
    if lower == lower_others or sorted(lower) != sorted(lower_others):
        return None
    return next(k for k, name in enumerate(lower) if name != lower_others[k])


def label_column_of(dataset: Any, label_column: str | None) -> str:
    """The column that holds the class, "labels" for datasets whose items have no field of a customary name."""
    if label_column is not None:
        if isinstance(dataset, Dataset) and dataset.format["type"] != "custom":  # a transform may make it
            require_column(dataset, label_column)
        return label_column
    return infer_label_column(dataset) if has_features(dataset) else item_label_column(first_item(dataset)) or "labels"


def resolve_class_names(model: Any, dataset: Any, label_column: str, num_classes: int) -> list[str]:
    """Names of the K classes: the dataset's where the model has none of its own, and then the model gets them too.

    Raises:
        ValueError: one class only, or both have the same names in another order.
    """
    if num_classes < 2:
        raise ValueError(f"the model has {num_classes} output: SelMix needs a classifier with at least two classes.")
    config = getattr(model, "config", None)
    id2label = getattr(config, "id2label", None) or {}
    of_model = [str(id2label.get(k, f"LABEL_{k}")) for k in range(num_classes)]
    if getattr(config, "label_names", None) not in (None, of_model):  # of the checkpoint that this model began with
        set_class_names(config, of_model)
    of_data = names_of_data(dataset, label_column)
    if len(of_data) != num_classes:
        return of_model
    if all(name == f"LABEL_{k}" for k, name in enumerate(of_model)):
        if config is not None:
            set_class_names(config, of_data)
        return of_data
    k = first_misplaced(of_model, of_data)
    if k is not None:
        raise ValueError(
            f"model and dataset have the same classes in another order: class {k} is {of_model[k]!r} in the model and "
            f"{of_data[k]!r} in the dataset. Call dataset.align_labels_with_mapping(model.config.label2id, "
            f"{label_column!r}) on every set first."
        )
    return of_model


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

"""Data whose labels, where they have some, are never read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np

from selmix_hf.data.examples import first_item, is_tuple
from selmix_hf.data.labels import LABEL_NAMES
from selmix_hf.data.seeded import ChangedItems


def without_labels(dataset: Any, labelled: Any, label_column: Any) -> Unlabelled | None:
    """Unlabelled data whose items look like those of the labelled set, with a constant class; None for None."""
    if dataset is None:
        return None
    example = first_item(labelled)
    keys = [name for name in (label_column, *LABEL_NAMES) if isinstance(example, Mapping) and name in example]
    return Unlabelled(dataset, keys)


_ROWS_OF_DIGEST = 32


class Unlabelled(ChangedItems):
    """Samples with a constant in the place of their class, so that no true label can reach a collator.

    Args:
        dataset: a map-style dataset; its items are mappings, pairs (input, class), or inputs alone.
        label_keys: keys under which labelled mappings have their class; those of `labels.LABEL_NAMES` that an
            unlabelled one has are covered too.
    """

    def __init__(self, dataset: Any, label_keys: Sequence[str] = ()) -> None:
        super().__init__(dataset)
        self.label_keys = tuple(label_keys)
        if hasattr(dataset, "_fingerprint"):
            self._fingerprint = f"{dataset._fingerprint}-unlabelled"

    @cached_property
    def digest(self) -> str | None:
        """Whether it is the same set again: sha256 of what some rows spread over a `datasets.Dataset` hold beside
        labels, as it is stored, so that it is one in every session and whatever transform reads the rows. None for
        other datasets."""
        if not isinstance(self.dataset, datasets.Dataset):
            return None
        labels = (*self.label_keys, *LABEL_NAMES)
        columns = self.dataset.select_columns([name for name in self.dataset.column_names if name not in labels])
        rows = np.linspace(0, len(self) - 1, _ROWS_OF_DIGEST).round().astype(int)
        stored = columns.with_format("arrow")[rows].to_pylist()
        content = [{name: _content(value) for name, value in row.items()} for row in stored]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def changed(self, sample: Any) -> Any:
        if isinstance(sample, Mapping):
            found = [name for name in LABEL_NAMES if name in sample]
            return {**sample, **dict.fromkeys((*self.label_keys, *found), 0)}
        return (sample[0] if is_tuple(sample) else sample, 0)


def _content(value: Any) -> Any:
    """Of an image that is not in the dataset itself its file's name, wherever that lies today."""
    if isinstance(value, Mapping) and "path" in value:
        return value.get("bytes") or os.path.basename(str(value["path"]))
    return value

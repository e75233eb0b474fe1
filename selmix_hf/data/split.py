"""A split of a dataset by rows, stored as JSON that can be held against the data."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from selmix_hf.data.classes import class_name, names_of_column
from selmix_hf.data.keys import sample_keys
from selmix_hf.data.labels import (
    MOST_CLASSES,
    class_labels,
    excerpt,
    infer_label_column,
    label_candidates,
    require_dataset,
)

_PARTS = ("train", "validation", "unlabeled")
_FORMAT = "selmix_hf.long_tailed_split/1"


@dataclass(frozen=True)
class LongTailedSplit:
    """Which samples make up a long-tailed training set, its balanced validation set and, for semi-supervised training,
    an unlabelled set.

    Attributes:
        train, validation, unlabeled: keys of the samples, in the order of the resulting datasets: row numbers when
            `key_column` is None, else values of that column (sha256 of the encoded bytes for an Image column).
        train_labels, validation_labels, unlabeled_labels: their classes; None for a split that was made elsewhere.
            Those of the unlabelled samples are for analysis, never for training: `apply` leaves the columns out.
        label_names: K class names, or None when the dataset has none.
        label_column, key_column: where labels and keys stand.
        num_rows: rows of the dataset it was made from, or None.
        settings: how it was made (profile, imbalance_factor, seed, ...), for the record.
    """

    train: tuple[int | str, ...]
    validation: tuple[int | str, ...]
    train_labels: tuple[int, ...] | None = None
    validation_labels: tuple[int, ...] | None = None
    label_names: tuple[str, ...] | None = None
    label_column: str | None = None
    key_column: str | None = None
    num_rows: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    unlabeled: tuple[int | str, ...] = ()
    unlabeled_labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        keys = (*self.train, *self.validation, *self.unlabeled)
        expected = "row numbers (integers from 0)" if self.key_column is None else "integers or strings"
        for key in keys:
            is_row = isinstance(key, int) and not isinstance(key, bool) and key >= 0
            if not is_row and (self.key_column is None or not isinstance(key, (int, str))):
                raise ValueError(f"the keys of this split must be {expected}, found {key!r}")
        if len(set(keys)) != len(keys):
            train, validation, unlabeled = set(self.train), set(self.validation), set(self.unlabeled)
            overlap = f"{len(train & validation)} in train and validation"
            if unlabeled:
                overlap += f", {len(unlabeled & (train | validation))} in unlabeled and one of these"
            raise ValueError(f"{len(keys) - len(set(keys))} keys occur twice ({overlap})")
        for part in _PARTS:
            labels, own = getattr(self, f"{part}_labels"), getattr(self, part)
            if labels is not None and len(labels) != len(own):
                raise ValueError(f"a split with {len(own)} keys has {len(labels)} labels")
            for label in labels or ():
                if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MOST_CLASSES:
                    raise ValueError(f"the labels of a split must be 0 to {MOST_CLASSES - 1:,}, found {label!r:.40}")

    @property
    def counts(self) -> dict[str, list[int]]:
        """Images a class, by class id: {"train": [K], "validation": [K]}, and "unlabeled" where there are such.
        ValueError without stored labels."""
        if self.train_labels is None or self.validation_labels is None:
            raise ValueError("this split stores no labels; class_labels(split.apply(dataset)['train']) has them")
        names, parts = self.label_names or (), _PARTS[: 2 + (self.unlabeled_labels is not None)]
        labels = {part: getattr(self, f"{part}_labels") for part in parts}
        num_classes = max(len(names), 1 + max((k for own in labels.values() for k in own), default=-1))
        return {
            part: np.bincount(np.asarray(own, np.int64), minlength=num_classes).tolist()
            for part, own in labels.items()
        }

    @property
    def digest(self) -> str:
        """sha256 over everything the split states, as canonical JSON."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        # through JSON once, so that tuples and lists compare equal after loading
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        if not self.unlabeled:  # the form, and the digest, of splits from before there were such samples
            del own["unlabeled"], own["unlabeled_labels"]
        content: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **own}))
        return content

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON, in one step. An equal split already there is left alone.

        Raises:
            FileExistsError: the file holds something else.
        """
        path = Path(path)
        if path.exists():
            try:
                same = LongTailedSplit.load(path).digest == self.digest
            except ValueError:
                same = False
            if same:
                return
            raise FileExistsError(f"{path} holds something else than this split; delete it or choose another path")
        content = {**self._content(), "digest": self.digest}
        if self.train_labels is not None and self.validation_labels is not None:
            content["counts"] = self.counts  # for the reader
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            unfinished.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LongTailedSplit:
        """Read a split that `save` wrote, or the bare form {"train": [row numbers], "validation": [row numbers]}, also
        with "unlabeled".

        The bare form has no digest to check and no labels; its other fields go to `settings`.

        Raises:
            ValueError: not a split, or a file altered after it was saved.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
        if not isinstance(content, dict) or not all(isinstance(content.get(p, []), list) for p in _PARTS):
            raise ValueError(f"{path} is not a split: expected an object with lists 'train' and 'validation'")
        digest, counts = content.pop("digest", None), content.pop("counts", None)
        if digest is None and "format" not in content:
            if "train" not in content:
                raise ValueError(f"{path} is not a split: it has no list 'train'")
            train, validation, unlabeled = (tuple(content.pop(part, ())) for part in _PARTS)
            return cls(train, validation, unlabeled=unlabeled, settings=content)
        if content.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} is not of the form {_FORMAT}: altered, or written by another version")
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        try:
            split = cls(**{**content, **lists})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} was altered after it was saved: {error}") from error
        if digest != split.digest or (counts is not None and counts != split.counts):
            raise ValueError(f"{path} was altered after it was saved: its digest does not match its content")
        return split

    def apply(self, dataset: Dataset) -> DatasetDict:
        """Rebuild the split: {"train", "validation", "unlabeled"}, without the last two when they are empty.

        "unlabeled" has no column that can hold a class (`labels.label_candidates`, so no coarse classes either): no
        training can read the true labels, `unlabeled_labels` has them. The rows come in the stored order; format and
        transform of the dataset are kept, so a transform must do without those columns.

        Raises:
            ValueError: keys that are missing or duplicated, another class or other class names than when the split
                was made, or another number of rows when the keys are row numbers.
        """
        require_dataset(dataset)
        if self.key_column is None and self.num_rows not in (None, len(dataset)):
            raise ValueError(f"row numbers of a dataset with {self.num_rows} rows, applied to one with {len(dataset)}")
        return self.select(dataset, sample_keys(dataset, self.key_column))

    def select(self, dataset: Dataset, keys: Sequence[int | str]) -> DatasetDict:
        """As `apply`, with the keys of the dataset's rows known."""
        row_of = {key: row for row, key in enumerate(keys)}
        keys_of = {part: getattr(self, part) for part in _PARTS}
        missing = [key for own in keys_of.values() for key in own if key not in row_of]
        if missing:
            raise ValueError(f"{len(missing)} keys of the split are not in the dataset, the first are {missing[:3]}")
        rows_of = {part: [row_of[key] for key in own] for part, own in keys_of.items()}
        known = [part for part in _PARTS if getattr(self, f"{part}_labels") is not None]
        if "train" in known and "validation" in known:
            expected = [label for part in known for label in getattr(self, f"{part}_labels")]
            self._check_labels(dataset, [row for part in known for row in rows_of[part]], expected)
        splits = DatasetDict({part: dataset.select(rows) for part, rows in rows_of.items() if rows or part == "train"})
        if self.unlabeled:
            columns = {self.label_column or infer_label_column(dataset), *label_candidates(dataset)}
            splits["unlabeled"] = splits["unlabeled"].remove_columns(sorted(columns))
        return splits

    def _check_labels(self, dataset: Dataset, rows: list[int], expected: list[int]) -> None:
        found = class_labels(dataset, self.label_column)[rows]
        names = names_of_column(dataset, self.label_column)
        if names is not None and self.label_names is not None and tuple(names) != self.label_names:
            raise ValueError(f"the class names were {excerpt(self.label_names)} and are {excerpt(names)} here")
        wrong = np.flatnonzero(found != np.asarray(expected))
        if wrong.size:
            here, then = (class_name(int(x[wrong[0]]), self.label_names) for x in (found, expected))
            reason = "; row numbers hold for the original order only" if self.key_column is None else ""
            raise ValueError(
                f"{wrong.size} samples have another class than when the split was made, the first is key "
                f"{(*self.train, *self.validation, *self.unlabeled)[wrong[0]]!r}: class {here}, was {then}{reason}"
            )

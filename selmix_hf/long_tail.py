"""Long-tailed splits of a `datasets.Dataset` and the published list files, reproducible and saved as JSON.

    splits = make_long_tailed(dataset, imbalance_factor=100, validation_per_class=500, save_to="split.json")
    splits["train"], splits["validation"]
    LongTailedSplit.load("split.json").apply(dataset)        # the same rows again, in the same order

A sample is drawn by the rank of sha256("{seed}|{key}") within its class. No random generator takes part, so the draw
does not depend on library versions; with a key column it does not depend on the order of the rows either.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict, Value

PROFILES = ("exponential", "pareto", "step")
_LABEL_NAMES = ("label", "labels", "fine_label", "target", "targets")
_PARTS = ("train", "validation")
_FORMAT = "selmix_hf.long_tailed_split/1"


# Labels


def infer_label_column(dataset: Dataset) -> str:
    """The column that holds the class.

    Candidates are the ClassLabel columns and the integer columns with a customary name (label, labels, fine_label,
    target, targets). A single candidate is taken; among several, the one called "label" or "labels".

    Raises:
        ValueError: no candidate, or several (the message names them).
        TypeError: not a `datasets.Dataset`.
    """
    _require_dataset(dataset)
    candidates = [
        name
        for name, feature in dataset.features.items()
        if isinstance(feature, ClassLabel) or (name in _LABEL_NAMES and _is_integer(feature))
    ]
    customary = [name for name in candidates if name in ("label", "labels")]
    for found in (candidates, customary):
        if len(found) == 1:
            return str(found[0])
    if candidates:
        raise ValueError(f"which column holds the class? {', '.join(candidates)} all could; pass label_column")
    raise ValueError(
        f"no label column found among {', '.join(dataset.column_names)}: expected a ClassLabel column or integers in "
        f"one of {', '.join(_LABEL_NAMES)}; pass label_column, or use class_encode_column for a column of strings"
    )


def class_labels(dataset: Any, label_column: str | None = None) -> np.ndarray:
    """The class of every row, as int64 of shape [N]. No image is decoded and no transform of the dataset runs.

    Args:
        dataset: a `datasets.Dataset`. Of any other map-style dataset the attribute `targets` or `labels` is read;
            without one, every `dataset[i][label_column]` is (slow: the whole item is loaded).
        label_column: inferred when None. Passed for a dataset that is not a `datasets.Dataset`, it is looked for as
            an attribute first.

    Raises:
        ValueError: labels that are missing, not integers, negative or beyond the ClassLabel's names.
        TypeError: a streaming dataset, a DatasetDict, or items without named fields.
    """
    names = None
    if isinstance(dataset, Dataset):
        column = label_column or infer_label_column(dataset)
        _require_column(dataset, column)
        feature = dataset.features[column]
        if not isinstance(feature, ClassLabel) and not _is_integer(feature):
            raise ValueError(f"column {column!r} holds {feature}, not an integer class; see class_encode_column")
        names = feature.names if isinstance(feature, ClassLabel) else None
        # with_format replaces a with_transform; reading dataset[column] would run the transform on every row
        values = dataset.with_format("numpy")[column][:]
    else:
        column, values = _map_style_labels(dataset, label_column)
    return _checked_labels(np.asarray(values), len(dataset), column, names)


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
    wanted = (label_column,) if label_column else _LABEL_NAMES
    known = [name for name in wanted if isinstance(item, Mapping) and name in item]
    if not known:
        raise TypeError(
            f"cannot read the labels of a {type(dataset).__name__}: it has no attribute 'targets' or 'labels', and "
            f"its items no field {' or '.join(wanted)}. Give it an attribute 'targets'"
        )
    return known[0], [dataset[i][known[0]] for i in range(len(dataset))]


def _checked_labels(labels: np.ndarray, num_rows: int, column: str, names: Sequence[str] | None) -> np.ndarray:
    if labels.shape != (num_rows,):
        raise ValueError(f"expected one label a row, {num_rows} in all; {column!r} has shape {list(labels.shape)}")
    if num_rows and labels.dtype.kind not in "iu":  # integers with missing values arrive as floats with nan
        raise ValueError(f"the labels in {column!r} are missing in places or not integers (read as {labels.dtype})")
    labels = labels.astype(np.int64)
    limit = np.iinfo(np.int64).max if names is None else len(names)
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        allowed = "0 or more" if names is None else f"0 to {limit - 1}"
        raise ValueError(
            f"labels in {column!r} must be {allowed}; {wrong.size} are not, the first is {labels[wrong[0]]} in row "
            f"{wrong[0]} (-1 is customary for unlabelled data: filter those rows out)"
        )
    return labels


def _is_integer(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


def _require_dataset(dataset: Any) -> None:
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a datasets.Dataset (a single one, not streaming), got a {type(dataset).__name__}")


def _require_column(dataset: Dataset, column: str) -> None:
    if column not in dataset.column_names:
        raise ValueError(f"no column {column!r} in the dataset; it has {', '.join(dataset.column_names)}")


# The split


@dataclass(frozen=True)
class LongTailedSplit:
    """Which samples make up a long-tailed training set and its balanced validation set.

    Attributes:
        train, validation: keys of the samples, in the order of the resulting datasets: row numbers when `key_column`
            is None, else values of that column (sha256 of the encoded bytes for an Image column).
        train_labels, validation_labels: their classes; None for a split that was made elsewhere.
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

    def __post_init__(self) -> None:
        keys = (*self.train, *self.validation)
        expected = "row numbers (integers from 0)" if self.key_column is None else "integers or strings"
        for key in keys:
            is_row = isinstance(key, int) and not isinstance(key, bool) and key >= 0
            if not is_row and (self.key_column is None or not isinstance(key, (int, str))):
                raise ValueError(f"the keys of this split must be {expected}, found {key!r}")
        if len(set(keys)) != len(keys):
            overlap = len(set(self.train) & set(self.validation))
            raise ValueError(f"{len(keys) - len(set(keys))} keys occur twice ({overlap} in train and validation)")
        for labels, own in ((self.train_labels, self.train), (self.validation_labels, self.validation)):
            if labels is not None and len(labels) != len(own):
                raise ValueError(f"a split with {len(own)} keys has {len(labels)} labels")

    @property
    def counts(self) -> dict[str, list[int]]:
        """Images a class, by class id: {"train": [K], "validation": [K]}. ValueError without stored labels."""
        if self.train_labels is None or self.validation_labels is None:
            raise ValueError("this split stores no labels; class_labels(split.apply(dataset)['train']) has them")
        names = self.label_names or ()
        num_classes = max(len(names), 1 + max((*self.train_labels, *self.validation_labels), default=-1))
        train, validation = (np.asarray(x, np.int64) for x in (self.train_labels, self.validation_labels))
        return {
            "train": np.bincount(train, minlength=num_classes).tolist(),
            "validation": np.bincount(validation, minlength=num_classes).tolist(),
        }

    @property
    def digest(self) -> str:
        """sha256 over everything the split states, as canonical JSON."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        # through JSON once, so that tuples and lists compare equal after loading
        own = {f.name: getattr(self, f.name) for f in fields(self)}
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
        """Read a split that `save` wrote, or the bare form {"train": [row numbers], "validation": [row numbers]}.

        The bare form has no digest to check and no labels; its other fields go to `settings`.

        Raises:
            ValueError: not a split, or a file altered after it was saved.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
        if not isinstance(content, dict) or not all(isinstance(content.get(p, []), list) for p in _PARTS):
            raise ValueError(f"{path} is not a split: expected an object with lists 'train' and 'validation'")
        digest, counts = content.pop("digest", None), content.pop("counts", None)
        if digest is None and "format" not in content:
            if "train" not in content:
                raise ValueError(f"{path} is not a split: it has no list 'train'")
            train, validation = (tuple(content.pop(part, ())) for part in _PARTS)
            return cls(train, validation, settings=content)
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
        """Rebuild the split: {"train", "validation"}, without "validation" when that is empty.

        The rows come in the stored order; format and transform of the dataset are kept.

        Raises:
            ValueError: keys that are missing or duplicated, another class or other class names than when the split
                was made, or another number of rows when the keys are row numbers.
        """
        _require_dataset(dataset)
        if self.key_column is None and self.num_rows not in (None, len(dataset)):
            raise ValueError(f"row numbers of a dataset with {self.num_rows} rows, applied to one with {len(dataset)}")
        return self._select(dataset, _keys(dataset, self.key_column))

    def _select(self, dataset: Dataset, keys: Sequence[int | str]) -> DatasetDict:
        row_of = {key: row for row, key in enumerate(keys)}
        missing = [key for key in (*self.train, *self.validation) if key not in row_of]
        if missing:
            raise ValueError(f"{len(missing)} keys of the split are not in the dataset, the first are {missing[:3]}")
        rows = [row_of[key] for key in (*self.train, *self.validation)]
        if self.train_labels is not None and self.validation_labels is not None:
            self._check_labels(dataset, rows, [*self.train_labels, *self.validation_labels])
        parts = zip(_PARTS, (rows[: len(self.train)], rows[len(self.train) :]), strict=True)
        return DatasetDict({part: dataset.select(indices) for part, indices in parts if indices or part == "train"})

    def _check_labels(self, dataset: Dataset, rows: list[int], expected: list[int]) -> None:
        found = class_labels(dataset, self.label_column)[rows]
        names = _label_names(dataset, self.label_column)
        if names is not None and self.label_names is not None and tuple(names) != self.label_names:
            raise ValueError(f"the class names were {_excerpt(self.label_names)} and are {_excerpt(names)} here")
        wrong = np.flatnonzero(found != np.asarray(expected))
        if wrong.size:
            here, then = (_class_name(int(x[wrong[0]]), self.label_names) for x in (found, expected))
            reason = "; row numbers hold for the original order only" if self.key_column is None else ""
            raise ValueError(
                f"{wrong.size} samples have another class than when the split was made, the first is key "
                f"{(*self.train, *self.validation)[wrong[0]]!r}: class {here}, was {then}{reason}"
            )


def long_tailed_counts(
    num_classes: int, max_per_class: int, imbalance_factor: float = 100, profile: str = "exponential"
) -> list[int]:
    """Images a class, most frequent first: from n_0 = n_max to n_{K-1} = n_max / rho, rounded down as in LDAM's code.

    - exponential: n_k = n_max rho^(-k/(K-1)) (Cao et al. 2019, LDAM; CIFAR-LT)
    - pareto: n_k = n_max (1 + t k/(K-1))^-3, t = rho^(1/3) - 1: a power law of the rank, shifted to meet both ends.
      ImageNet-LT and Places-LT (Liu et al. 2019, OLTR) are random draws from a Pareto distribution, which no formula
      repeats; with the power 3, 1,000 classes of 1,280 to 5 have 116,711 images, where ImageNet-LT has 115,846.
    - step: n_max for the first K // 2 classes, n_max / rho for the others (Cao et al. 2019)

    Raises:
        ValueError: an unknown profile, rho < 1, fewer than 2 classes, or classes that would be left empty.
    """
    counts = [_rounded_down(max_per_class * share) for share in _shares(num_classes, imbalance_factor, profile)]
    if counts[-1] < 1:
        raise ValueError(
            f"imbalance_factor={imbalance_factor:g} with at most {max_per_class} images a class leaves "
            f"{sum(count < 1 for count in counts)} classes without an image; it can be {max_per_class} at most"
        )
    return counts


def _shares(num_classes: int, imbalance_factor: float, profile: str) -> list[float]:
    """n_k / n_max for k = 0 .. K-1."""
    rho, last = float(imbalance_factor), num_classes - 1
    if not (math.isfinite(rho) and rho >= 1):
        raise ValueError(f"imbalance_factor is n_max / n_min and must be 1 or more, not {imbalance_factor}")
    if num_classes < 2:
        raise ValueError(f"a long tail needs 2 classes or more, found {num_classes}")
    if profile == "exponential":
        return [rho ** (-k / last) for k in range(num_classes)]
    if profile == "pareto":
        return [(1 + (rho ** (1 / 3) - 1) * k / last) ** -3 for k in range(num_classes)]
    if profile == "step":
        return [1.0 if k < num_classes // 2 else 1 / rho for k in range(num_classes)]
    raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")


def _rounded_down(count: float) -> int:
    return int(count + 1e-9)  # 57 must not become 56.99999


def long_tailed_split(
    labels: Sequence[int] | np.ndarray,
    imbalance_factor: float = 100,
    profile: str = "exponential",
    max_per_class: int | None = None,
    class_order: Sequence[int | str] | str | None = None,
    validation_per_class: int = 0,
    seed: int = 0,
    *,
    keys: Sequence[int | str] | np.ndarray | None = None,
    label_names: Sequence[str] | None = None,
    label_column: str | None = None,
    key_column: str | None = None,
) -> LongTailedSplit:
    """Choose the samples of a long-tailed split from labels alone; `make_long_tailed` explains the options.

    Args:
        labels: [N] class ids.
        keys: [N] unique names of the samples, to be found again in `key_column`; row numbers when None.
        label_names: K class names; None means K = largest label + 1.
        label_column, key_column: recorded for `LongTailedSplit.apply`.
    """
    labels = _checked_labels(np.asarray(labels), len(labels), label_column or "labels", label_names)
    if (keys is None) != (key_column is None):
        raise ValueError("keys and key_column belong together: pass both, or neither for row numbers")
    keys = range(len(labels)) if keys is None else keys
    if isinstance(keys, np.ndarray):
        keys = keys.tolist()  # plain Python values, for JSON
    if len(keys) != len(labels):
        raise ValueError(f"{len(labels)} labels but {len(keys)} keys")
    if validation_per_class < 0:
        raise ValueError(f"validation_per_class must be 0 or more, not {validation_per_class}")
    num_classes = len(label_names) if label_names else int(labels.max(initial=-1)) + 1
    shares = _shares(num_classes, imbalance_factor, profile)
    order = _resolve_order(class_order, num_classes, label_names, seed)
    num_images = np.bincount(labels, minlength=num_classes).tolist()
    if max_per_class is None:
        # the largest n_max with floor(n_max share_k) <= what is left of class k, for every k
        left = [max(num_images[k] - validation_per_class, 0) for k in order]
        max_per_class = min(math.ceil((n + 1 - 1e-9) / share) - 1 for n, share in zip(left, shares, strict=True))
        # fewer than rho would leave classes empty; where rho is too many, the error below says so
        max_per_class = max(max_per_class, math.ceil(imbalance_factor))
    counts = long_tailed_counts(num_classes, max_per_class, imbalance_factor, profile)
    train_count = dict(zip(order, counts, strict=True))
    for k, count in train_count.items():
        if count + validation_per_class > num_images[k]:
            raise ValueError(
                f"class {_class_name(k, label_names)} has {num_images[k]} images, but {count} for training and "
                f"{validation_per_class} for validation were asked for; lower max_per_class, validation_per_class or "
                "imbalance_factor"
            )

    hashes = [hashlib.sha256(f"{seed}|{key}".encode()).digest() for key in keys]
    classes, drawn = labels.tolist(), [-1] * num_classes
    train, validation = [], []
    for row in sorted(range(len(labels)), key=hashes.__getitem__):
        k = classes[row]
        rank = drawn[k] = drawn[k] + 1
        if rank < validation_per_class:
            validation.append(row)
        elif rank < validation_per_class + train_count[k]:
            train.append(row)
    return LongTailedSplit(
        train=tuple(keys[row] for row in train),
        validation=tuple(keys[row] for row in validation),
        train_labels=tuple(labels[train].tolist()),
        validation_labels=tuple(labels[validation].tolist()),
        label_names=tuple(label_names) if label_names else None,
        label_column=label_column,
        key_column=key_column,
        num_rows=len(labels),
        settings={
            "profile": profile,
            "imbalance_factor": float(imbalance_factor),
            "max_per_class": int(max_per_class),
            "class_order": order,
            "validation_per_class": int(validation_per_class),
            "seed": int(seed),
        },
    )


def make_long_tailed(
    dataset: Dataset,
    imbalance_factor: float = 100,
    profile: str = "exponential",
    max_per_class: int | None = None,
    class_order: Sequence[int | str] | str | None = None,
    validation_per_class: int = 0,
    seed: int = 0,
    label_column: str | None = None,
    key_column: str | None = None,
    *,
    save_to: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """A long-tailed "train" and a balanced, disjoint "validation" split of a dataset.

    Args:
        imbalance_factor: rho = n_max / n_min.
        profile: "exponential", "pareto" or "step"; see `long_tailed_counts`.
        max_per_class: n_max. None: the largest for which every class has enough images once those for validation are
            set aside (CIFAR-10 with 500 for validation: 4,500).
        class_order: class ids or names, most frequent first; None is the order of the class ids, "random" an order
            drawn from the seed.
        validation_per_class: images a class for validation, taken first; 0 gives no "validation".
        seed: chooses the samples, and the class order where that is random.
        label_column: see `infer_label_column`.
        key_column: what a sample is recognised by: a column of unique strings or integers, or an Image column (its
            encoded bytes are hashed). None: the row number, which is fast but tied to the order of the rows.
        save_to: where the split is written (see `LongTailedSplit.save`).

    Raises:
        ValueError: more images asked for than a class has, duplicated keys, unusable labels.
        FileExistsError: `save_to` holds another split.
    """
    _require_dataset(dataset)
    label_column = label_column or infer_label_column(dataset)
    keys = _keys(dataset, key_column)
    split = long_tailed_split(
        class_labels(dataset, label_column),
        imbalance_factor,
        profile,
        max_per_class,
        class_order,
        validation_per_class,
        seed,
        keys=keys if key_column is not None else None,
        label_names=_label_names(dataset, label_column),
        label_column=label_column,
        key_column=key_column,
    )
    if save_to is not None:
        split.save(save_to)
    return split._select(dataset, keys)


def _resolve_order(
    class_order: Sequence[int | str] | str | None, num_classes: int, label_names: Sequence[str] | None, seed: int
) -> list[int]:
    if class_order is None:
        return list(range(num_classes))
    if isinstance(class_order, str):
        if class_order != "random":
            raise ValueError(f"class_order must be None, 'random' or a list of classes, not {class_order!r}")
        return sorted(range(num_classes), key=lambda k: hashlib.sha256(f"{seed}|class|{k}".encode()).digest())
    ids = {name: k for k, name in enumerate(label_names or ())}
    order = [ids.get(entry, -1) if isinstance(entry, str) else int(entry) for entry in class_order]
    wrong = [entry for entry, k in zip(class_order, order, strict=True) if not 0 <= k < num_classes]
    if wrong or sorted(order) != list(range(num_classes)):
        missing = [_class_name(k, label_names) for k in range(num_classes) if k not in order]
        raise ValueError(
            f"class_order must name each of the {num_classes} classes once; it has {len(order)} entries, "
            f"unknown {wrong[:5]}, missing {missing[:5]}"
        )
    return order


def _label_names(dataset: Dataset, label_column: str | None) -> list[str] | None:
    feature = dataset.features[label_column or infer_label_column(dataset)]
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _class_name(k: int, label_names: Sequence[str] | None) -> str:
    return f"{label_names[k]!r} ({k})" if label_names and k < len(label_names) else str(k)


def _excerpt(names: Sequence[str]) -> str:
    return f"{len(names)} names ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _keys(dataset: Dataset, key_column: str | None) -> Sequence[int | str]:
    """The key of every row: see `make_long_tailed`."""
    if key_column is None:
        return range(len(dataset))
    _require_column(dataset, key_column)
    feature = dataset.features[key_column]
    plain = dataset.with_format(None).select_columns([key_column])
    if isinstance(feature, Image):
        keys: list[int | str] = list(_image_digests(plain.cast_column(key_column, Image(decode=False)), key_column))
    elif _is_integer(feature) or (isinstance(feature, Value) and feature.dtype in ("string", "large_string")):
        keys = plain[key_column][:]
    else:
        raise ValueError(f"keys must be strings, integers or images; column {key_column!r} holds {feature}")
    first: dict[int | str, int] = {}
    for row, key in enumerate(keys):
        if key is None:
            raise ValueError(f"row {row} has no key in column {key_column!r}")
        if first.setdefault(key, row) != row:
            num_twice = len(keys) - len(set(keys))
            raise ValueError(
                f"{num_twice} rows repeat a key of column {key_column!r}: {key!r} is in rows {first[key]} and {row}; "
                "use a column without duplicates, or key_column=None for row numbers"
            )
    return keys


def _image_digests(dataset: Dataset, column: str) -> Iterator[str]:
    for batch in dataset.iter(batch_size=256):
        for image in batch[column]:
            if image is None:
                raise ValueError(f"an image is missing in column {column!r}: it cannot serve as key")
            encoded = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            yield hashlib.sha256(encoded).hexdigest()


# Published list files


def load_list_file(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    label_names: Sequence[str] | None = None,
    check_files: bool = True,
) -> Dataset:
    """A dataset from a published list file: ImageNet-LT, Places-LT (Liu et al. 2019), iNaturalist 2018.

    Each line is `relative/path.jpg label`; paths may contain spaces, blank lines are skipped, a leading slash counts
    as relative. Columns: image (decoded when read) and label (ClassLabel). Load train and test lists of one benchmark
    with `load_list_files`, so that they share their classes.

    Args:
        label_names: K class names; None: "0" to the largest label of the file.
        check_files: look for every image now rather than in the middle of an epoch.

    Raises:
        ValueError: an empty file, or a line without a path or a valid label (with its line number).
        FileNotFoundError: images that are not under `image_root`.
    """
    return load_list_files({"list": path}, image_root, label_names, check_files)["list"]


def load_list_files(
    paths: Mapping[str, str | os.PathLike[str]],
    image_root: str | os.PathLike[str],
    label_names: Sequence[str] | None = None,
    check_files: bool = True,
) -> DatasetDict:
    """Several list files, e.g. {"train": ..., "test": ...}, as datasets that share one ClassLabel.

    Without `label_names`, K is the largest label of all files + 1. Otherwise as `load_list_file`.
    """
    if not paths:
        raise ValueError("no list file given")
    limit = len(label_names) if label_names is not None else None
    parsed = {part: _parse_list_file(Path(path), Path(image_root), limit) for part, path in paths.items()}
    if check_files:
        for part, (images, _) in parsed.items():
            missing = [image for image in images if not os.path.isfile(image)]
            if missing:
                raise FileNotFoundError(
                    f"{len(missing)} of {len(images)} images of {paths[part]} are not under image_root="
                    f"{os.fspath(image_root)!r}, the first are {', '.join(missing[:3])}"
                )
    if label_names is None:
        label_names = [str(k) for k in range(1 + max(max(labels) for _, labels in parsed.values()))]
    features = Features({"image": Image(), "label": ClassLabel(names=list(label_names))})
    return DatasetDict(
        {
            part: Dataset.from_dict({"image": images, "label": labels}, features=features)
            for part, (images, labels) in parsed.items()
        }
    )


def _parse_list_file(path: Path, image_root: Path, limit: int | None) -> tuple[list[str], list[int]]:
    images, labels = [], []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            image, _, label = line.strip().replace("\t", " ").rpartition(" ")
            if not image.strip():
                raise ValueError(f"{path}, line {number}: expected 'path label', found {line.strip()!r}")
            if not (label.isascii() and label.isdigit()):
                raise ValueError(f"{path}, line {number}: the label must be an integer from 0, found {label!r}")
            if limit is not None and int(label) >= limit:
                raise ValueError(f"{path}, line {number}: label {label}, but there are {limit} label_names")
            images.append(os.path.join(image_root, image.strip().lstrip("/")))
            labels.append(int(label))
    if not images:
        raise ValueError(f"{path} lists no image")
    return images, labels

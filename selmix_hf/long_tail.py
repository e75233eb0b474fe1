"""Long-tailed splits of a `datasets.Dataset`, reproducible and saved as JSON.

    splits = make_long_tailed(dataset, imbalance_factor=100, validation_per_class=500, save_to="split.json")
    splits["train"], splits["validation"]
    LongTailedSplit.load("split.json").apply(dataset)        # the same rows again, in the same order

A sample is drawn by the rank of sha256("{seed}|{key}") within its class. No random generator takes part, so the draw
does not depend on library versions; with a key column it does not depend on the order of the rows either.

For semi-supervised training `unlabeled_max_per_class=...` draws a third split, "unlabeled", without its labels. A
benchmark whose unlabelled images are a set of their own, of unknown class distribution (the 100,000 of STL-10), needs
no such split: make its labelled images long-tailed, and use the other set as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value

from selmix_hf.labels import (
    checked_labels,
    class_labels,
    excerpt,
    infer_label_column,
    is_integer,
    label_candidates,
    require_column,
    require_dataset,
)

PROFILES = ("exponential", "pareto", "step")
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
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
        return self._select(dataset, _keys(dataset, self.key_column))

    def _select(self, dataset: Dataset, keys: Sequence[int | str]) -> DatasetDict:
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
        names = _label_names(dataset, self.label_column)
        if names is not None and self.label_names is not None and tuple(names) != self.label_names:
            raise ValueError(f"the class names were {excerpt(self.label_names)} and are {excerpt(names)} here")
        wrong = np.flatnonzero(found != np.asarray(expected))
        if wrong.size:
            here, then = (_class_name(int(x[wrong[0]]), self.label_names) for x in (found, expected))
            reason = "; row numbers hold for the original order only" if self.key_column is None else ""
            raise ValueError(
                f"{wrong.size} samples have another class than when the split was made, the first is key "
                f"{(*self.train, *self.validation, *self.unlabeled)[wrong[0]]!r}: class {here}, was {then}{reason}"
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
    counts = [
        _rounded_down(max_per_class * share) for share in long_tailed_shares(num_classes, imbalance_factor, profile)
    ]
    if counts[-1] < 1:
        raise ValueError(
            f"imbalance_factor={imbalance_factor:g} with at most {max_per_class} images a class leaves "
            f"{sum(count < 1 for count in counts)} classes without an image; it can be {max_per_class} at most"
        )
    return counts


def long_tailed_shares(num_classes: int, imbalance_factor: float, profile: str = "exponential") -> list[float]:
    """n_k / n_max for k = 0 .. K-1, not rounded; see `long_tailed_counts`.

    Raises:
        ValueError: an unknown profile, rho < 1, or fewer than 2 classes.
    """
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
    unlabeled_max_per_class: int | None = None,
    unlabeled_imbalance_factor: float = 1,
) -> LongTailedSplit:
    """Choose the samples of a long-tailed split from labels alone; `make_long_tailed` explains the options.

    Args:
        labels: [N] class ids.
        keys: [N] unique names of the samples, to be found again in `key_column`; row numbers when None.
        label_names: K class names; None means K = largest label + 1.
        label_column, key_column: recorded for `LongTailedSplit.apply`.
    """
    labels = checked_labels(np.asarray(labels), len(labels), label_column or "labels", label_names)
    if (keys is None) != (key_column is None):
        raise ValueError("keys and key_column belong together: pass both, or neither for row numbers")
    keys = range(len(labels)) if keys is None else keys
    if isinstance(keys, np.ndarray):
        keys = keys.tolist()  # plain Python values, for JSON
    if len(keys) != len(labels):
        raise ValueError(f"{len(labels)} labels but {len(keys)} keys")
    for name, value, kinds in (
        ("imbalance_factor", imbalance_factor, Real),
        ("max_per_class", max_per_class, Integral | None),
        ("validation_per_class", validation_per_class, Integral),
        ("seed", seed, Integral),
        ("unlabeled_max_per_class", unlabeled_max_per_class, Integral | None),
        ("unlabeled_imbalance_factor", unlabeled_imbalance_factor, Real),
    ):
        if not isinstance(value, kinds):
            raise ValueError(f"{name} must be a {'number' if kinds is Real else 'whole number'}, not {value!r}")
    if max_per_class is not None and max_per_class < 1:
        raise ValueError(f"max_per_class must be 1 or more, not {max_per_class}")
    if validation_per_class < 0:
        raise ValueError(f"validation_per_class must be 0 or more, not {validation_per_class}")
    num_classes = len(label_names) if label_names else int(labels.max(initial=-1)) + 1
    shares = long_tailed_shares(num_classes, imbalance_factor, profile)
    order = _resolve_order(class_order, num_classes, label_names, seed)
    num_images = np.bincount(labels, minlength=num_classes).tolist()
    unlabeled_count = dict.fromkeys(order, 0)
    if unlabeled_max_per_class is None and unlabeled_imbalance_factor != 1:
        raise ValueError(
            f"unlabeled_imbalance_factor={unlabeled_imbalance_factor:g} says nothing without unlabeled_max_per_class"
        )
    if unlabeled_max_per_class is not None:
        unlabeled = _unlabeled_counts(num_classes, unlabeled_max_per_class, unlabeled_imbalance_factor, profile)
        unlabeled_count = dict(zip(order, unlabeled, strict=True))
    if max_per_class is None:
        # the largest n_max with floor(n_max share_k) <= what is left of class k, for every k
        left = [max(num_images[k] - validation_per_class - unlabeled_count[k], 0) for k in order]
        max_per_class = min(math.ceil((n + 1 - 1e-9) / share) - 1 for n, share in zip(left, shares, strict=True))
        # fewer than rho would leave classes empty; where rho is too many, the error below says so
        max_per_class = max(max_per_class, math.ceil(imbalance_factor))
    counts = long_tailed_counts(num_classes, max_per_class, imbalance_factor, profile)
    train_count = dict(zip(order, counts, strict=True))
    for k, count in train_count.items():
        if count + validation_per_class + unlabeled_count[k] > num_images[k]:
            also = f", {unlabeled_count[k]} unlabelled" if unlabeled_max_per_class is not None else ""
            lower = ", unlabeled_max_per_class" if also else ""
            raise ValueError(
                f"class {_class_name(k, label_names)} has {num_images[k]} images, but {count} for training{also} and "
                f"{validation_per_class} for validation were asked for; lower max_per_class{lower}, "
                "validation_per_class or imbalance_factor"
            )

    hashes = [hashlib.sha256(f"{seed}|{key}".encode()).digest() for key in keys]
    classes, drawn = labels.tolist(), [-1] * num_classes
    train, validation, without_label = [], [], []
    for row in sorted(range(len(labels)), key=hashes.__getitem__):
        k = classes[row]
        rank = drawn[k] = drawn[k] + 1
        if rank < validation_per_class:
            validation.append(row)
        elif rank < validation_per_class + train_count[k]:
            train.append(row)
        elif rank < validation_per_class + train_count[k] + unlabeled_count[k]:
            without_label.append(row)
    settings: dict[str, Any] = {
        "profile": profile,
        "imbalance_factor": float(imbalance_factor),
        "max_per_class": int(max_per_class),
        "class_order": order,
        "validation_per_class": int(validation_per_class),
        "seed": int(seed),
    }
    if unlabeled_max_per_class is not None:
        settings["unlabeled_max_per_class"] = int(unlabeled_max_per_class)
        settings["unlabeled_imbalance_factor"] = float(unlabeled_imbalance_factor)
    return LongTailedSplit(
        train=tuple(keys[row] for row in train),
        validation=tuple(keys[row] for row in validation),
        train_labels=tuple(labels[train].tolist()),
        validation_labels=tuple(labels[validation].tolist()),
        label_names=tuple(label_names) if label_names else None,
        label_column=label_column,
        key_column=key_column,
        num_rows=len(labels),
        settings=settings,
        unlabeled=tuple(keys[row] for row in without_label),
        unlabeled_labels=tuple(labels[without_label].tolist()) if without_label else None,
    )


def _unlabeled_counts(num_classes: int, max_per_class: int, imbalance_factor: float, profile: str) -> list[int]:
    """As `long_tailed_counts`, for classes in the order of the labelled set; below 1 the order is turned around."""
    if max_per_class < 1 or not (imbalance_factor > 0 and math.isfinite(imbalance_factor)):
        raise ValueError(
            "unlabeled_max_per_class must be 1 or more and unlabeled_imbalance_factor above 0, not "
            f"{max_per_class} and {imbalance_factor}"
        )
    try:
        counts = long_tailed_counts(num_classes, max_per_class, max(imbalance_factor, 1 / imbalance_factor), profile)
    except ValueError as error:  # of the options for training, which are right
        raise ValueError(
            f"unlabeled_imbalance_factor={imbalance_factor:g} with unlabeled_max_per_class={max_per_class} leaves "
            f"classes without an unlabelled image; it can be 1/{max_per_class} to {max_per_class}"
        ) from error
    return counts if imbalance_factor >= 1 else counts[::-1]


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
    unlabeled_max_per_class: int | None = None,
    unlabeled_imbalance_factor: float = 1,
    save_to: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """A long-tailed "train", a balanced "validation" and, if asked for, an "unlabeled" split of a dataset, disjoint.

    Args:
        imbalance_factor: rho = n_max / n_min.
        profile: "exponential", "pareto" or "step"; see `long_tailed_counts`.
        max_per_class: n_max. None: the largest for which every class has enough images once those for validation and
            the unlabelled ones are set aside (CIFAR-10 with 500 for validation: 4,500).
        class_order: class ids or names, most frequent first; None is the order of the class ids, "random" an order
            drawn from the seed.
        validation_per_class: images a class for validation, taken first; 0 gives no "validation".
        seed: chooses the samples, and the class order where that is random.
        label_column: see `infer_label_column`.
        key_column: what a sample is recognised by: a column of unique strings or integers, or an Image column (its
            encoded bytes are hashed). None: the row number, which is fast but tied to the order of the rows.
        unlabeled_max_per_class: M1, images of the most frequent class of "unlabeled", which has no label column (see
            `LongTailedSplit.apply`); None for no such split. Drawn after the others, which stay the same at the same
            `max_per_class`; None leaves room for it there.
        unlabeled_imbalance_factor: rho_u of "unlabeled": as rho, in the same order of the classes; 1 for as many of
            each class; below 1 (1/100) the rarest class in training is the most frequent one there.
        save_to: where the split is written (see `LongTailedSplit.save`).

    Raises:
        ValueError: more images asked for than a class has, factors that leave a class empty, duplicated keys, unusable
            labels.
        FileExistsError: `save_to` holds another split.
    """
    require_dataset(dataset)
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
        unlabeled_max_per_class=unlabeled_max_per_class,
        unlabeled_imbalance_factor=unlabeled_imbalance_factor,
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


def _keys(dataset: Dataset, key_column: str | None) -> Sequence[int | str]:
    """The key of every row: see `make_long_tailed`."""
    if key_column is None:
        return range(len(dataset))
    require_column(dataset, key_column)
    feature = dataset.features[key_column]
    plain = dataset.with_format(None).select_columns([key_column])
    if isinstance(feature, Image):
        keys: list[int | str] = list(image_digests(plain.cast_column(key_column, Image(decode=False)), key_column))
    elif is_integer(feature) or (isinstance(feature, Value) and feature.dtype in ("string", "large_string")):
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


def image_digests(dataset: Dataset, column: str) -> Iterator[str]:
    """sha256 of the encoded bytes of each image, in a column that does not decode them."""
    for batch in dataset.iter(batch_size=256):
        for image in batch[column]:
            if image is None:
                raise ValueError(f"an image is missing in column {column!r}: it cannot serve as key")
            encoded = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            yield hashlib.sha256(encoded).hexdigest()

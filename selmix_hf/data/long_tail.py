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
import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from selmix_hf.data.classes import class_name, names_of_column
from selmix_hf.data.keys import sample_keys
from selmix_hf.data.labels import checked_labels, class_labels, infer_label_column, require_dataset
from selmix_hf.data.split import LongTailedSplit

PROFILES = ("exponential", "pareto", "step")


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
                f"class {class_name(k, label_names)} has {num_images[k]} images, but {count} for training{also} and "
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
    keys = sample_keys(dataset, key_column)
    split = long_tailed_split(
        class_labels(dataset, label_column),
        imbalance_factor,
        profile,
        max_per_class,
        class_order,
        validation_per_class,
        seed,
        keys=keys if key_column is not None else None,
        label_names=names_of_column(dataset, label_column),
        label_column=label_column,
        key_column=key_column,
        unlabeled_max_per_class=unlabeled_max_per_class,
        unlabeled_imbalance_factor=unlabeled_imbalance_factor,
    )
    if save_to is not None:
        split.save(save_to)
    return split.select(dataset, keys)


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
        missing = [class_name(k, label_names) for k in range(num_classes) if k not in order]
        raise ValueError(
            f"class_order must name each of the {num_classes} classes once; it has {len(order)} entries, "
            f"unknown {wrong[:5]}, missing {missing[:5]}"
        )
    return order

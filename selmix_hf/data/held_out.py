"""A validation and a test set for data that are long-tailed by nature."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from datasets import Dataset, DatasetDict, Image
from transformers.utils import logging

from selmix_hf.data.labels import class_labels, infer_label_column, require_dataset
from selmix_hf.data.split import LongTailedSplit

logger = logging.get_logger(__name__)

LEAST = 3  # one sample each for training, validation and test
_KEEP = "small_classes='train' keeps classes of one or two for training alone"


def hold_out(
    dataset: Dataset,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    label_column: str | None = None,
    save_to: str | os.PathLike[str] | None = None,
    small_classes: str = "refuse",
) -> DatasetDict:
    """Splits "train", "validation" and "test", with samples of every class in each.

    Of a class of n samples, n x share go to validation and to test, rounded down, but at least one; the others train.
    Samples are drawn by the rank of sha256("{seed}|{row}") within their class.

    Args:
        validation, test: shares of each class.
        label_column: default: see `labels.infer_label_column`.
        save_to: JSON file for the rows of "train" and "validation" (a `LongTailedSplit`); all others are "test". The
            card of a run names its digest where it is split.json in output_dir.
        small_classes: what becomes of classes of one or two samples: "refuse", or "train": all of them train, which
            is said, and the other splits lack these classes. Evaluate with `absent="leave out"` then. A `gain_dataset`
            needs every class, so only trainers without one, such as `Stage1Trainer`, learn them.

    Raises:
        FileExistsError: `save_to` holds another split.
        ValueError: shares that leave nothing to train on, a class with fewer than three samples (with "train": without
            any, or nothing else), unusable labels.
    """
    require_dataset(dataset)
    if small_classes not in ("refuse", "train"):
        raise ValueError(f"small_classes must be 'refuse' or 'train', found {small_classes!r}.")
    if not (0 < validation and 0 < test and validation + test < 1):
        raise ValueError(
            "validation and test are shares of each class, above 0 and together below 1; found "
            f"{validation} and {test}."
        )
    label_column = label_column or infer_label_column(dataset)
    labels_N = np.asarray(class_labels(dataset, label_column))
    names = getattr(dataset.features[label_column], "names", None)
    counts_K = np.bincount(labels_N, minlength=len(names or ()))
    samples = "images" if any(isinstance(kind, Image) for kind in dataset.features.values()) else "samples"
    divisible = counts_K.max(initial=0) >= LEAST
    keeps = divisible and small_classes == "train"

    def fewer_than(least: int) -> str:
        small = [f"{names[k] if names else k} ({counts_K[k]})" for k in np.flatnonzero(counts_K < least)]
        return f"{', '.join(small[:5])}{f' and {len(small) - 5} more' * (len(small) > 5)}"

    if refused := fewer_than(1 if keeps else LEAST):
        each = f"{LEAST} {samples} or more, one each for training, validation and test"
        advice = ", or leave those classes out" if divisible else f"; {_KEEP}, and needs a larger one to divide"
        if divisible and not keeps and np.isin(counts_K, (1, 2)).any():
            advice += f"; {_KEEP}"
        raise ValueError(
            f"every class needs {f'{samples} to train on' if keeps else each}; too few have {refused}. "
            f"Add {samples}{advice}."
        )
    if small := fewer_than(LEAST):
        logger.warning(
            f"all {samples} of {(counts_K < LEAST).sum()} of {len(counts_K)} classes train, and validation and test "
            f"lack these: {small}. Evaluate with absent='leave out'; SelMixTrainer needs every class in gain_dataset, "
            "and takes these splits without those classes alone."
        )
    rank_N = np.array([hashlib.sha256(f"{seed}|{row}".encode()).hexdigest() for row in range(len(labels_N))])
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for k, count in enumerate(counts_K):
        of_class = np.flatnonzero(labels_N == k)
        drawn = of_class[np.argsort(rank_N[of_class], kind="stable")].tolist()
        held = [max(1, int(count * share + 1e-9)) if count >= LEAST else 0 for share in (validation, test)]
        ends = np.cumsum(held)
        for part, own in zip(("validation", "test", "train"), np.split(np.array(drawn), ends), strict=True):
            rows[part] += own.tolist()
    rows = {part: sorted(own) for part, own in rows.items()}
    if save_to is not None:
        LongTailedSplit(
            train=tuple(rows["train"]),
            validation=tuple(rows["validation"]),
            train_labels=tuple(labels_N[rows["train"]].tolist()),
            validation_labels=tuple(labels_N[rows["validation"]].tolist()),
            label_names=tuple(names) if names else None,
            label_column=label_column,
            num_rows=len(dataset),
            settings={"validation": float(validation), "test": float(test), "seed": int(seed)},
        ).save(save_to)
    return DatasetDict({part: dataset.select(own) for part, own in rows.items()})

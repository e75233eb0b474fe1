"""Published list files of long-tailed benchmarks (ImageNet-LT, Places-LT, iNaturalist): lines of `path label`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image


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
        ValueError: an empty file, one that is not text, or a line without path or valid label (its number is told).
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
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected lines of 'path label', found no text ({error})") from error
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

"""Published list files of long-tailed benchmarks (ImageNet-LT, Places-LT, iNaturalist): lines of `path label`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from transformers.utils import logging

logger = logging.get_logger(__name__)

_PLAIN = 1000  # so many numbers are class numbers, however few of them occur


def load_list_file(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    label_names: Sequence[str] | None = None,
    check_files: bool = True,
    dense: bool = False,
) -> Dataset:
    """A dataset from a published list file: ImageNet-LT, Places-LT (Liu et al. 2019), iNaturalist 2018.

    Each line is `relative/path.jpg label`; paths may contain spaces, blank lines are skipped, a leading slash counts
    as relative. Columns: image (decoded when read) and label (ClassLabel). Load train and test lists of one benchmark
    with `load_list_files`, so that they share their classes.

    Args:
        label_names: K class names; None: "0" to the largest label of the file.
        check_files: look for every image now rather than in the middle of an epoch.
        dense: the labels are ids, such as those of taxa: number those that occur from 0, in their order. Their names
            are then the ids, or `label_names` in that order.

    Raises:
        ValueError: an empty file, one that is not text, a line without path or valid label, or with a path that leads
            out of `image_root` (its number is told); labels that look like ids, without `dense` or `label_names`.
        FileNotFoundError: images that are not under `image_root`.
    """
    return load_list_files({"list": path}, image_root, label_names, check_files, dense)["list"]


def load_list_files(
    paths: Mapping[str, str | os.PathLike[str]],
    image_root: str | os.PathLike[str],
    label_names: Sequence[str] | None = None,
    check_files: bool = True,
    dense: bool = False,
) -> DatasetDict:
    """Several list files, e.g. {"train": ..., "test": ...}, as datasets that share one ClassLabel.

    Without `label_names`, K is the largest label of all files + 1, or with `dense` the number of labels that occur in
    one of them. Otherwise as `load_list_file`.
    """
    if not paths:
        raise ValueError("no list file given")
    limit = None if label_names is None or dense else len(label_names)
    parsed = {part: _parse_list_file(Path(path), Path(image_root), limit) for part, path in paths.items()}
    ids = sorted({label for _, labels in parsed.values() for label in labels})
    if dense:
        if label_names is not None and len(label_names) != len(ids):
            raise ValueError(f"{len(ids)} labels occur, but there are {len(label_names)} label_names")
        parsed = {part: (images, numbered(labels, ids)) for part, (images, labels) in parsed.items()}
        label_names = list(map(str, ids)) if label_names is None else label_names
        say_if_renumbered(", ".join(map(str, paths.values())), ids)
    elif label_names is None:
        if ids[-1] >= _PLAIN and 2 * len(ids) <= ids[-1]:
            raise ValueError(
                f"the labels of {', '.join(map(str, paths.values()))} reach {ids[-1]}, but only {len(ids)} of these "
                "numbers occur. Where they are ids, such as of taxa, pass dense=True to number those that occur from "
                "0; where they are class numbers, pass label_names, one a class"
            )
        label_names = [str(k) for k in range(1 + ids[-1])]
    return datasets_of(parsed, list(label_names), paths if check_files else {}, image_root)


def numbered(labels: Sequence[int], ids: Sequence[int]) -> list[int]:
    """The place of each label among the ids."""
    place_of = {id: k for k, id in enumerate(ids)}
    return [place_of[label] for label in labels]


def say_if_renumbered(source: str, ids: Sequence[int]) -> None:
    """A warning, where the classes of a file have other numbers in the dataset."""
    if list(ids) != list(range(len(ids))):
        logger.warning(
            f"the {len(ids)} ids of {source} are numbered from 0 in their order: {', '.join(map(str, ids[:3]))}, ... "
            f"become {', '.join(map(str, range(len(ids[:3]))))}, ..."
        )


def datasets_of(
    parsed: Mapping[str, tuple[list[str], list[int]]],
    label_names: list[str],
    checked: Mapping[str, str | os.PathLike[str]],
    image_root: str | os.PathLike[str],
) -> DatasetDict:
    """Datasets of image paths and labels that share their class names.

    Args:
        parsed: paths and labels of each part.
        label_names: K.
        checked: the file of each part whose images are looked for.
        image_root: for the error.

    Raises:
        FileNotFoundError: images that are not there.
    """
    for part, path in checked.items():
        images, _ = parsed[part]
        missing = [image for image in images if not os.path.isfile(image)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(images)} images of {path} are not under image_root="
                f"{os.fspath(image_root)!r}, the first are {', '.join(missing[:3])}"
            )
    features = Features({"image": Image(), "label": ClassLabel(names=label_names)})
    return DatasetDict(
        {
            part: Dataset.from_dict({"image": images, "label": labels}, features=features)
            for part, (images, labels) in parsed.items()
        }
    )


def path_below(image_root: str | os.PathLike[str], image: str) -> str:
    """The path of an image; a leading slash counts as relative. One with `..` must stay in `image_root`, with links
    to other folders followed. Without `..` a link in the folder may lead wherever who laid it wants: the folder is the
    user's, and links to a common store are customary; the list is another's, and may not choose where it leads.

    Raises:
        ValueError: it leads out.
    """
    path = os.path.join(Path(image_root), image.lstrip("/"))  # never "", in front of which a URL would stay one
    if ".." in Path(image).parts:
        root = os.path.realpath(image_root)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise ValueError(f"{image!r} leads out of image_root={os.fspath(image_root)!r}")
    return path


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
        if not (label.isascii() and label.isdigit() and len(label) < 19):
            raise ValueError(f"{path}, line {number}: the label must be an integer from 0, found {label!r:.40}")
        if limit is not None and int(label) >= limit:
            raise ValueError(f"{path}, line {number}: label {label}, but there are {limit} label_names")
        try:
            images.append(path_below(image_root, image.strip()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        labels.append(int(label))
    if not images:
        raise ValueError(f"{path} lists no image")
    return images, labels

"""COCO's JSON with one class an image, as iNaturalist publishes its lists: images, annotations, categories."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers.utils import logging

from selmix_hf.data.list_files import datasets_of, numbered, path_below, say_if_renumbered
from selmix_hf.method.confusion import distinct_names

logger = logging.get_logger(__name__)

UNCLEAR = ("refuse", "leave out")  # images that have not one class
_PARTS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def load_coco_file(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    unclear: str = "refuse",
    check_files: bool = True,
) -> Dataset:
    """A dataset from a file of COCO's form with one class an image, such as iNaturalist's train2018.json.

    Columns are those of `list_files.load_list_file`: image (decoded when read) and label (ClassLabel). All categories
    of the file are classes, in the order of their ids, from 0; their names are the class names, those that several
    share with the class's number behind. Load the files of one benchmark with `load_coco_files`.

    Args:
        path: JSON with images (id, file_name), annotations (image_id, category_id) and categories (id, name).
        image_root: folder that the file names start from; they may not lead out of it.
        unclear: what becomes of an image without an annotation, or with annotations of several categories: "refuse",
            or "leave out", and say how many.
        check_files: look for every image now rather than in the middle of an epoch.

    Raises:
        ValueError: a file of another form, ids and names that are neither numbers nor strings, ids of categories of
            both kinds, an image or a category that is not in it, images that are unclear or lead out of `image_root`,
            none at all.
        FileNotFoundError: images that are not under `image_root`.
    """
    return load_coco_files({"list": path}, image_root, unclear, check_files)["list"]


def load_coco_files(
    paths: Mapping[str, str | os.PathLike[str]],
    image_root: str | os.PathLike[str],
    unclear: str = "refuse",
    check_files: bool = True,
) -> DatasetDict:
    """Several files, e.g. {"train": ..., "validation": ...}, as datasets that share one ClassLabel, of the categories
    of all of them. A file may be without categories. Otherwise as `load_coco_file`.

    Raises:
        ValueError: one id with two names, in whatever files.
    """
    if not paths:
        raise ValueError("no file given")
    if unclear not in UNCLEAR:
        raise ValueError(f"unclear must be 'refuse' or 'leave out', found {unclear!r}")
    contents = {part: _read(Path(path)) for part, path in paths.items()}
    names: dict[int, str] = {}
    for part, content in contents.items():
        for category in content["categories"]:
            id, name = category["id"], str(category["name"])
            if names.setdefault(id, name) != name:
                raise ValueError(
                    f"{paths[part]}: category {id} is {name!r}, and {names[id]!r} before: the files are not of one "
                    "benchmark, or one is wrong"
                )
    if len(kinds := {isinstance(id, str): id for id in names}) > 1:
        raise ValueError(
            f"{', '.join(map(str, paths.values()))}: ids of categories must be all numbers or all strings, found "
            f"{kinds[False]!r} and {kinds[True]!r}"
        )
    ids = sorted(names)
    say_if_renumbered(", ".join(map(str, paths.values())), ids)
    parsed = {}
    for part, content in contents.items():
        images, categories = _one_class_each(content, names, str(paths[part]), unclear)
        try:
            images = [path_below(image_root, image) for image in images]
        except ValueError as error:
            raise ValueError(f"{paths[part]}: {error}") from error
        parsed[part] = images, numbered(categories, ids)
    return datasets_of(parsed, distinct_names(names[id] for id in ids), paths if check_files else {}, image_root)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The parts that are used, each a list of objects with their fields; categories may be missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    parts = {}
    for part, needed in _PARTS.items():
        found = content.get(part, [] if part == "categories" else None) if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(isinstance(x, dict) and x.keys() >= {*needed} for x in found):
            raise ValueError(
                f"{path}: expected COCO's form, an object whose {part!r} is a list of objects with "
                f"{' and '.join(needed)}; lists of test sets without annotations have no classes to load"
            )
        for number, item in enumerate(found):
            for field in needed:
                if type(value := item[field]) not in (int, float, str):
                    raise ValueError(
                        f"{path}: {field!r} of {part}[{number}] must be a number or a string, found {value!r:.60}"
                    )
        parts[part] = found
    return parts


def _one_class_each(
    content: Mapping[str, list[dict[str, Any]]], names: Mapping[int, str], source: str, unclear: str
) -> tuple[list[str], list[int]]:
    """File names and categories of the images that have one."""
    files = {image["id"]: str(image["file_name"]) for image in content["images"]}
    if len(files) < len(content["images"]):
        raise ValueError(f"{source}: {len(content['images']) - len(files)} ids of images occur twice")
    found: dict[int, set[int]] = defaultdict(set)
    for annotation in content["annotations"]:
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in files:
            raise ValueError(f"{source}: an annotation is of image {image!r}, which is not among its images")
        if category not in names:
            raise ValueError(f"{source}: an annotation is of category {category!r}, which no file names")
        found[image].add(category)
    wrong = [image for image in files if len(found[image]) != 1]
    if wrong:
        first = ", ".join(names[category] for category in sorted(found[wrong[0]])) or "none"
        sentence = (
            f"{source}: {len(wrong)} of {len(files)} images have annotations of several categories or none, the first "
            f"is {files[wrong[0]]!r} ({first})"
        )
        if unclear == "refuse":
            raise ValueError(f"{sentence}. One class an image is needed: pass unclear='leave out' to do without them")
        logger.warning(f"{sentence}. They are left out.")
    clear = [image for image in files if len(found[image]) == 1]
    if not clear:
        raise ValueError(f"{source} has no image with one class")
    return [files[image] for image in clear], [min(found[image]) for image in clear]

"""Benchmarks whose splits are published list files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict

from selmix_hf.data.coco_files import load_coco_files
from selmix_hf.data.list_files import load_list_files


@dataclass(kw_only=True)
class ListArguments:
    """Options of a recipe whose splits are published list files."""

    lists: str | None = field(
        default=None, metadata={"help": "Folder of the published list files; default: that of --image_root."}
    )
    image_root: str | None = field(
        default=None, metadata={"help": "Folder that the paths in the list files start from."}
    )
    class_names: str | None = field(
        default=None, metadata={"help": "File of class names, one a line, in order; default: their numbers."}
    )
    check_images: bool = field(
        default=True, metadata={"help": "Look for every image of the lists before anything else."}
    )


def load_published(
    arguments: ListArguments, files: Mapping[str, str], source: str, coco: Mapping[str, str] | None = None
) -> tuple[DatasetDict, str]:
    """The splits of published list files, and the digest of the lists.

    Args:
        arguments: where the lists and the images lie.
        files: name of the list file of each split.
        source: a sentence: where list files and images are to be had.
        coco: the same as JSON, see `coco_files.load_coco_files`; read where there is none of the list files.

    Raises:
        FileNotFoundError: a folder, a list file or images are missing.
        ValueError: no text files, bad lines, or names that do not fit.
    """
    if arguments.image_root is None:
        raise ValueError(
            f"--image_root is missing: the folder that the paths in {files['train']} start from. {source}"
        )
    folder, root = Path(arguments.lists or arguments.image_root), Path(arguments.image_root)
    for option, path in (("--image_root", root), ("--lists", folder)):
        if not path.is_dir():
            raise FileNotFoundError(f"{option}: there is no folder {str(path)!r} (looked in {Path.cwd()}). {source}")
    paths = {part: folder / name for part, name in files.items()}
    as_coco = {part: folder / name for part, name in (coco or {}).items()}
    if as_coco and all(path.is_file() for path in as_coco.values()) and not any(p.is_file() for p in paths.values()):
        paths = as_coco
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"--lists: {str(folder)!r} must hold {', '.join(missing)}, but does not. {source}")
    names = None
    if arguments.class_names is not None:
        if not Path(arguments.class_names).is_file():
            raise FileNotFoundError(f"--class_names: there is no file {arguments.class_names!r}.")
        names = _names_in(Path(arguments.class_names))
        twice = sorted({name for name in names if names.count(name) > 1})[:3] if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"--class_names: {', '.join(twice)} occurs twice in {arguments.class_names}.")
    try:
        if paths is as_coco:
            if names is not None:
                raise ValueError("--class_names is for list files, and JSON names its categories: leave it out")
            splits = load_coco_files(paths, root, check_files=arguments.check_images)
        else:
            splits = load_list_files(paths, root, names, arguments.check_images)
    except (FileNotFoundError, ValueError) as error:
        if names is not None and "label_names" in str(error):
            raise ValueError(f"--class_names: {arguments.class_names} has {len(names)} names, but {error}.") from error
        raise type(error)(f"{error}. {source}") from error
    digest = hashlib.sha256()
    for part, path in paths.items():
        digest.update(part.encode() + hashlib.sha256(path.read_bytes()).digest())
    return splits, digest.hexdigest()


def _names_in(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--class_names: {path} is no text file ({error}).") from error
    if not names:
        raise ValueError(f"--class_names: {path} is empty; expected one class name a line.")
    return names

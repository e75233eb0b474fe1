"""Whether a checkpoint is whole: its files with their sizes and checksums, written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from selmix_hf.training.readable import unreadable

FILE_NAME = "manifest.json"
_UNFINISHED = "it was not written to its end"
_OPEN = {"files": None}  # while the files are being written


def begin(folder: str | os.PathLike[str]) -> None:
    """Say that a checkpoint is being written, before anything else is; the folder is made if need be."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write(Path(folder), _OPEN)


def finish(folder: str | os.PathLike[str]) -> None:
    """Say that all files of a checkpoint are there, once every process has written its own."""
    files = {
        path.relative_to(folder).as_posix(): _facts(path) for path in sorted(Path(folder).rglob("*")) if _is_own(path)
    }
    _write(Path(folder), {"files": files})


def fault_of(folder: str | os.PathLike[str], needed: Callable[[str], bool] = lambda name: True) -> str | None:
    """What is wrong with a checkpoint, or None. Of a folder without a manifest, as older versions and other trainers
    write it, files that are cut are found, see `readable.unreadable`.

    Args:
        folder: of the checkpoint.
        needed: which of its files are looked at, by their names.

    Returns:
        such as "model.safetensors is damaged: its sha256 is not that of manifest.json".
    """
    try:
        text = (Path(folder) / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return unreadable(Path(folder), needed)
    try:
        files = json.loads(text)["files"]
        sizes = {} if files is None else {name: int(facts["size"]) for name, facts in files.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{FILE_NAME} is damaged"
    if files is None:
        return _UNFINISHED
    for name, facts in files.items():
        path = Path(folder) / name
        if not needed(name):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != sizes[name]:
            return f"{name} is damaged: {path.stat().st_size:,} bytes of {sizes[name]:,}"
        if _facts(path) != facts:
            return f"{name} is damaged: its sha256 is not that in {FILE_NAME}"
    return None


def names_in(folder: str | os.PathLike[str]) -> list[str]:
    """The files that a checkpoint was closed with, by their paths in it; none without a manifest."""
    try:
        return list(json.loads((Path(folder) / FILE_NAME).read_text(encoding="utf-8"))["files"] or ())
    except (OSError, ValueError, TypeError, KeyError):
        return []


def is_unfinished(folder: str | os.PathLike[str]) -> bool:
    """Whether the writing of a checkpoint was begun and did not come to its end."""
    return fault_of(folder, lambda name: False) == _UNFINISHED


def _is_own(path: Path) -> bool:
    return path.is_file() and path.name != FILE_NAME and path.suffix != ".tmp"


def _facts(path: Path) -> dict[str, object]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write(folder: Path, content: Mapping[str, object]) -> None:
    unfinished = folder / f"{FILE_NAME}.tmp"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / FILE_NAME)

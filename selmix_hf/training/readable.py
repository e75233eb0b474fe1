"""Files of a checkpoint that were cut or overwritten, told by what can be read of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor


def read_json(path: Path) -> Any:
    """What is in a JSON file.

    Raises:
        ValueError: it is cut or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error}).") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: it is cut or no such file.
    """
    try:
        return load_file(path), _metadata(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: it is no safetensors file ({error}).") from error


def unreadable(folder: Path, needed: Callable[[str], bool]) -> str | None:
    """A sentence on the first file that cannot be what its name says, or None; contents are not looked at.

    Args:
        folder: of a checkpoint.
        needed: which of its files are looked at, by their names.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        look = _LOOKS.get(path.suffix)
        if look is None or not needed(name) or not path.is_file():
            continue
        try:
            if look(path) is False:
                return f"{name} is damaged: it is no file of torch.save"
        except (ValueError, SafetensorError) as error:
            return f"{name} is damaged ({error})"
    return None


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata() or {})


# A file of torch.save is a zip archive, whose end lists what is in it.
_LOOKS: dict[str, Callable[[Path], Any]] = {
    ".json": read_json,
    ".safetensors": _metadata,
    ".pt": zipfile.is_zipfile,
    ".pth": zipfile.is_zipfile,
}

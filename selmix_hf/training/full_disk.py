"""A checkpoint that there is no room for: what is missing, and what a run goes on from."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from selmix_hf.training.resuming import require_checkpoint

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# how safetensors and torch.save say it, whose errors have no code
_SIGNS = (*(f"(os error {code})" for code in _CODES), "inline_container.cc", "PytorchStreamWriter", "iostream error")


def saying_that_it_is_full(save: Callable[..., None]) -> Callable[..., None]:
    """A trainer's `_save_checkpoint` that ends, where a disk is full, in one error.

    Raises:
        OSError: (of the decorated method) with the folder, the bytes that are free and those that a checkpoint takes,
            and the checkpoint that `resume_from_checkpoint=True` goes on from. What was written so far stays, and is
            known to be unfinished.
    """

    @wraps(save)
    def saved(trainer: Any, model: Any, trial: Any) -> None:
        try:
            save(trainer, model, trial)
        except Exception as error:  # of the file system, of safetensors, of torch
            if not _is_of_a_full_disk(error):
                raise
            sentence = _sentence(Path(trainer.checkpoint_folder(trial)), error)
            raise OSError(errno.ENOSPC, sentence) from error

    return saved


def _is_of_a_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _CODES
    return any(sign in str(error) for sign in _SIGNS)


def _sentence(folder: Path, error: Exception) -> str:
    reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error).splitlines()[0]
    free, written = shutil.disk_usage(folder.parent).free, _size(folder)
    said = f"{folder} could not be written to its end ({reason}): {free:,} bytes are free beside {written:,} of it"
    try:
        last = require_checkpoint(True, str(folder.parent), say=lambda _: None)
    except (FileNotFoundError, ValueError):
        last = None
    if last is None:
        return f"{said}. There is no whole checkpoint before it: make room and begin anew."
    return (
        f"{said}, and {Path(last).name} has {_size(Path(last)):,}. That is the last whole one: make room, and "
        "train(resume_from_checkpoint=True) goes on from it."
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""What a comparison has fitted, kept in a folder: one that was interrupted goes on where it stopped.

Shape suffix: N samples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import logging

logger = logging.get_logger(__name__)

FOLDER = "fits"  # in output_dir


@dataclass(frozen=True)
class Fit:
    """What is kept of a fitted method: the classes that it gives the samples it is measured on."""

    predicted_N: np.ndarray
    seconds: float
    memory_gb: dict[str, float]
    hardware: str


class Fits:
    """Fits by what makes them, each made once; on disk as they come, by the first process, for all.

    Args:
        folder: made with the first fit.
        identity: what all of them depend on, fit for JSON: weights of the start, split, settings, versions. Fits of
            another identity stay in the folder and are not seen.

    Attributes:
        seconds_before: that the fits found in the folder took.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self.seconds_before = 0.0
        self._known: dict[str, Fit] = {}

    def __call__(self, key: Mapping[str, Any], make: Callable[[], Fit]) -> Fit:
        """The fit of that key; made where there is none yet.

        Args:
            key: what sets it apart, fit for JSON.
            make: called on every process, or on none.
        """
        what = json.dumps({**self.identity, **key}, sort_keys=True)
        name = hashlib.sha256(what.encode()).hexdigest()[:32]
        if name not in self._known:
            path, is_main = self.folder / f"{name}.npz", PartialState().is_main_process
            found = broadcast_object_list([_read(path) if is_main and path.is_file() else None])[0]
            self._known[name] = fit = make() if found is None else found
            if found is not None:
                self.seconds_before += found.seconds
            elif is_main:
                _write(path, fit, what)
        return self._known[name]


def _read(path: Path) -> Fit | None:
    """None where the file is damaged: the fit is made anew."""
    try:
        with np.load(path) as stored:
            facts = json.loads(str(stored["facts"]))
            return Fit(stored["predicted"].astype(np.int64), facts["seconds"], facts["memory_gb"], facts["hardware"])
    except (BadZipFile, ValueError, KeyError, EOFError) as error:
        logger.warning(f"{path} is damaged ({error}): its fit is made anew.")
        return None


def _write(path: Path, fit: Fit, what: str) -> None:
    """In one move: a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = json.dumps({"seconds": fit.seconds, "memory_gb": fit.memory_gb, "hardware": fit.hardware})
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, predicted=fit.predicted_N.astype(np.int32), facts=facts, key=what)
    part.replace(path)

"""Pooled features on disk: a second run on the same backbone and data starts at once, an interrupted pass goes on.

Shape suffixes: N samples, D features, R rows of a chunk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.fingerprint import Hasher
from safetensors import safe_open
from torch import Tensor

from selmix_hf.features import DatasetPass
from selmix_hf.fingerprint import backbone_fingerprint
from selmix_hf.sampling import SeededDataset

_CHUNK = 1024  # samples: as many are lost where a pass is interrupted
_DTYPES = {"float32": "F32", "float16": "F16"}


class FeatureCache:
    """Computes features, or reads them where the same backbone, dataset, transform and seed were met before.

    A set's features are one safetensors file, written chunk by chunk by all processes and read by memory mapping, so
    that they may be larger than the memory. Until all are there the file ends in ".partial" and a ".done" file beside
    it says which chunks are: a pass that was interrupted computes the others only.

    Args:
        folder: where the files lie; None computes always and keeps the features in memory.
        dtype: "float32" or "float16", which is half as large.
        salt: anything else that changes features, such as the precision.
    """

    def __init__(self, folder: str | os.PathLike | None, dtype: str = "float32", salt: str = "") -> None:
        self.folder = None if folder is None else Path(folder)
        self.dtype, self.salt = dtype, salt

    def features(
        self, look: DatasetPass, dataset: Any, collator: Callable[[list[Any]], dict[str, Any]], seed: int = 0
    ) -> Tensor:
        """Features that enter the head, on the CPU, N x D, on every process.

        Args:
            look: runs the model.
            dataset: only a `datasets.Dataset` has the fingerprint that makes its features storable.
            collator: makes batches of `SeededExample`s; its options are part of the key.
            seed: of what is random in the collator and in the dataset's own transform.
        """
        seeded = SeededDataset(dataset, [seed])
        path = self._path(look, dataset, collator, seed)
        if path is None:
            return look.features(seeded, collator).to(getattr(torch, self.dtype))
        if not all(_of_all_processes(path.is_file())):
            self._build(path, look, seeded, collator)
        with safe_open(path, "pt") as opened:
            features_ND: Tensor = opened.get_tensor("features")
        return features_ND

    def _build(self, path: Path, look: DatasetPass, dataset: SeededDataset, collator: Callable) -> None:
        partial, done_path = path.with_suffix(".partial"), path.with_suffix(".done")
        shape = (len(dataset), look.head.num_features)
        starts = range(0, len(dataset), _CHUNK)
        rank, world_size = look.rank, look.world_size
        if rank == 0:
            _create(partial, done_path, shape, self.dtype, len(starts))
        if not all(_of_all_processes(partial.is_file() or path.is_file())):  # nodes without a common file system
            rank, world_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            if rank == 0 and not path.is_file():
                _create(partial, done_path, shape, self.dtype, len(starts))
            _of_all_processes(True)
        if not path.is_file():
            features_ND = np.memmap(partial, self.dtype, "r+", len(_header(shape, self.dtype)), shape)
            done = np.memmap(done_path, np.uint8, "r+", shape=(len(starts),))
            missing = [start for i, start in enumerate(starts) if i % world_size == rank and not done[i]]
            batches = [
                rows_R
                for start in missing
                for rows_R in torch.arange(start, min(start + _CHUNK, len(dataset))).split(look.batch_size)
            ]
            for rows_R, batch_RD in look.feature_batches(dataset, collator, batches):
                features_ND[rows_R.numpy()] = batch_RD.numpy()
                last = int(rows_R[-1])
                if last + 1 == len(dataset) or (last + 1) % _CHUNK == 0:
                    features_ND.flush()
                    done[last // _CHUNK] = 1
        _of_all_processes(True)
        if rank == 0 and partial.is_file():
            os.replace(partial, path)  # whole or not at all
            done_path.unlink(missing_ok=True)
        _of_all_processes(True)

    def _path(self, look: DatasetPass, dataset: Any, collator: Any, seed: int) -> Path | None:
        if self.folder is None or not hasattr(dataset, "_fingerprint"):
            return None
        parts = [backbone_fingerprint(look.model, look.head.parameters()), dataset._fingerprint, Hasher.hash(collator)]
        key = hashlib.sha256("|".join([*parts, str(seed), self.dtype, self.salt]).encode()).hexdigest()
        return self.folder / f"{key[:32]}.safetensors"


def _header(shape: tuple[int, int], dtype: str) -> bytes:
    """What a safetensors file with one tensor begins with."""
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    text = json.dumps({"features": {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [0, size]}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _create(partial: Path, done_path: Path, shape: tuple[int, int], dtype: str, num_chunks: int) -> None:
    """Empty files for features and for the list of chunks that are there, where an earlier pass left none."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    header = _header(shape, dtype)
    size = len(header) + shape[0] * shape[1] * np.dtype(dtype).itemsize
    known = [path.stat().st_size if path.is_file() else 0 for path in (partial, done_path)]
    if known == [size, num_chunks]:
        return
    done_path.write_bytes(bytes(num_chunks))
    with open(partial, "wb") as file:
        file.write(header)
        file.truncate(size)


def _of_all_processes(value: bool) -> list[bool]:
    """Everybody's value; waits for the others."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values: list[bool] = [False] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(values, value)
        return values
    return [value]

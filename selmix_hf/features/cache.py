"""Pooled features on disk: a second run on the same backbone and data starts at once, an interrupted pass goes on.

Shape suffixes: N samples, D features, R rows of a chunk.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets.fingerprint import Hasher
from safetensors import safe_open
from torch import Tensor

from selmix_hf.data.collators import Collator
from selmix_hf.data.seeded import SeededDataset
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.models.fingerprint import backbone_fingerprint

_CHUNK = 1024  # samples: as many are lost where a pass is interrupted
_DTYPES = {"float32": "F32", "float16": "F16"}


class FeatureSource(Protocol):
    """What gives the features of a dataset: a `FeatureCache`, or what takes its place where they are known."""

    def features(self, look: DatasetPass, dataset: Any, collator: Collator, seed: int = 0) -> Tensor:
        """Features that enter the head, N x D, on every process."""
        ...


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

    def __init__(self, folder: str | os.PathLike[str] | None, dtype: str = "float32", salt: str = "") -> None:
        self.folder = None if folder is None else Path(folder)
        self.dtype, self.salt = dtype, salt

    def features(self, look: DatasetPass, dataset: Any, collator: Collator, seed: int = 0) -> Tensor:
        """Features that enter the head, on the CPU, N x D, on every process.

        Args:
            look: runs the model.
            dataset: only a `datasets.Dataset` has the fingerprint that makes its features storable.
            collator: makes batches of `SeededExample`s; its options are part of the key.
            seed: of what is random in the collator and in the dataset's own transform.
        """
        seeded = SeededDataset(dataset, [seed])
        name = _of_first(self._name(look, dataset, collator, seed) if look.rank == 0 else None)
        if name is None or self.folder is None:
            return self._cast(look.features(seeded, collator))
        path = self.folder / name
        if not all(_of_all(path.is_file())):
            self._build(path, look, seeded, collator)
        with safe_open(path, "pt") as opened:
            features_ND: Tensor = opened.get_tensor("features")
        return features_ND

    def _build(self, path: Path, look: DatasetPass, dataset: SeededDataset, collator: Collator) -> None:
        partial, done_path = path.with_suffix(".partial"), path.with_suffix(".done")
        shape, starts = (len(dataset), look.head.num_features), range(0, len(dataset), _CHUNK)
        path.parent.mkdir(parents=True, exist_ok=True)
        rank, world_size = _place_among_those_who_share(path.parent, look)
        if rank == 0 and not path.is_file():
            _create(partial, done_path, shape, self.dtype, len(starts))
        _of_all(True)
        try:
            done = np.memmap(done_path, np.uint8, "r+", shape=(len(starts),))
            features_ND = np.memmap(partial, self.dtype, "r+", len(_header(shape, self.dtype)), shape)
        except FileNotFoundError:
            if not path.is_file():  # else they are there already, or another run has just finished them
                raise
        else:
            own = [start for i, start in enumerate(starts) if i % world_size == rank and not done[i]]
            batches = [
                rows_R
                for start in own
                for rows_R in torch.split(torch.arange(start, min(start + _CHUNK, len(dataset))), look.batch_size)
            ]
            for rows_R, batch_RD in look.feature_batches(dataset, collator, batches):
                features_ND[rows_R.numpy()] = self._cast(batch_RD).numpy()
                last = int(rows_R[-1])
                if last + 1 == len(dataset) or (last + 1) % _CHUNK == 0:
                    features_ND.flush()
                    done[last // _CHUNK] = 1
        _of_all(True)
        if rank == 0 and not path.is_file():
            if not done.all():
                raise RuntimeError(f"{partial} is not complete: a process did not write its part. Run again.")
            done_path.unlink(missing_ok=True)
            os.replace(partial, path)  # whole or not at all
        _of_all(True)

    def _cast(self, features: Tensor) -> Tensor:
        cast = features.to(getattr(torch, self.dtype))
        if not bool(cast.isfinite().all()) and bool(features.isfinite().all()):
            raise ValueError(
                f"features reach {float(features.abs().max()):.3g}, beyond {self.dtype}: set feature_dtype='float32'."
            )
        return cast

    def _name(self, look: DatasetPass, dataset: Any, collator: Any, seed: int) -> str | None:
        if self.folder is None or not hasattr(dataset, "_fingerprint"):
            return None
        parts = [backbone_fingerprint(look.model, look.head.parameters()), _forward_config(look.model)]
        parts += [dataset._fingerprint, Hasher.hash(collator), str(seed), self.dtype, self.salt]
        return f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:32]}.safetensors"


def _forward_config(model: Any) -> str:
    """What beside weights may decide a forward pass: the model's options, without the names of its classes."""
    options = dict(model.config.to_dict()) if hasattr(model, "config") else {}
    for name in ("_name_or_path", "id2label", "label2id", "label_names", "num_labels", "transformers_version"):
        options.pop(name, None)
    return json.dumps(options, sort_keys=True, default=str)


def _place_among_those_who_share(folder: Path, look: DatasetPass) -> tuple[int, int]:
    """Rank and number of the processes that see this folder: all of them, or those of a node without a common file
    system. A file of a known name would prove nothing, as an earlier run may have left it on every node."""
    token = folder / str(_of_first(f".{uuid.uuid4().hex}"))
    if look.rank == 0:
        token.touch()
    _of_all(True)
    shared = all(_of_all(token.is_file()))
    if look.rank == 0:
        token.unlink()
    if shared:
        return look.rank, look.world_size
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _header(shape: tuple[int, int], dtype: str) -> bytes:
    """What a safetensors file with one tensor begins with."""
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    text = json.dumps({"features": {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [0, size]}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _create(partial: Path, done_path: Path, shape: tuple[int, int], dtype: str, num_chunks: int) -> None:
    """Empty files for the list of chunks that are there and for features, where there are none. Each appears whole,
    and never in the place of another: a second run may be at the same work.

    Raises:
        OSError: no room.
    """
    header = _header(shape, dtype)
    size = len(header) + shape[0] * shape[1] * np.dtype(dtype).itemsize
    for path, begin, length in ((done_path, b"", num_chunks), (partial, header, size)):
        if path.is_file() and path.stat().st_size != length:  # of another version of this package
            path.unlink()
        own = path.with_suffix(f"{path.suffix}.{uuid.uuid4().hex}")
        try:
            with open(own, "wb") as file:
                file.write(begin)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, length)  # a full disk must be met here: later it kills
                file.truncate(length)
            with suppress(FileExistsError):
                os.link(own, path)
        finally:
            own.unlink(missing_ok=True)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_all(value: bool) -> list[bool]:
    """Everybody's value; waits for the others."""
    if not _distributed():
        return [value]
    values: list[bool] = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _of_first(value: str | None) -> str | None:
    """The first process's value."""
    values = [value]
    if _distributed():
        torch.distributed.broadcast_object_list(values)
    return values[0]

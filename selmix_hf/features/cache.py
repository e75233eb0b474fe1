"""Pooled features on disk: a second run on the same backbone and data starts at once, an interrupted pass goes on.

Shape suffixes: N samples, D features, R rows of a chunk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets.fingerprint import Hasher
from safetensors import safe_open
from torch import Tensor
from transformers.utils import logging

from selmix_hf.data.collators import Collator
from selmix_hf.data.seeded import SeededDataset
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.models.fingerprint import backbone_fingerprint

logger = logging.get_logger(__name__)

_CHUNK = 1024  # samples: as many are lost where a pass is interrupted
_DTYPES = {"float32": "F32", "float16": "F16"}
_DIGEST = 32  # bytes of a sha256


class FeatureSource(Protocol):
    """What gives the features of a dataset: a `FeatureCache`, or what takes its place where they are known."""

    def features(self, look: DatasetPass, dataset: Any, collator: Collator, seed: int = 0) -> Tensor:
        """Features that enter the head, N x D, on every process."""
        ...


class FeatureCache:
    """Computes features, or reads them where the same backbone, dataset, transform and seed were met before.

    A set's features are one safetensors file, written chunk by chunk by all processes and read by memory mapping, so
    that they may be larger than the memory. Until all are there the file ends in ".partial" and a ".done" file beside
    it has the sha256 of the chunks that are: a pass that was interrupted computes the others only. The whole file has
    the checksum of these in its metadata; one that is damaged is computed anew, and a warning says so.

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

        Raises:
            OSError: no room in the folder.
        """
        seeded = SeededDataset(dataset, [seed])
        name = _of_first(self._name(look, dataset, collator, seed) if look.rank == 0 else None)
        if name is None or self.folder is None:
            return self._cast(look.features(seeded, collator))
        path = self.folder / name
        shape = (len(seeded), look.head.num_features)
        whole = path.is_file() and _is_whole(path, shape, self.dtype)
        if not all(_of_all(whole)):
            if not whole and path.is_file():
                logger.warning(f"{path} is damaged, or of an older version: its features are computed anew.")
                path.unlink(missing_ok=True)
            self._build(path, look, seeded, collator, shape)
        with safe_open(path, "pt") as opened:
            features_ND: Tensor = opened.get_tensor("features")
        return features_ND

    def _build(
        self, path: Path, look: DatasetPass, dataset: SeededDataset, collator: Collator, shape: tuple[int, int]
    ) -> None:
        partial, done_path = path.with_suffix(".partial"), path.with_suffix(".done")
        starts = range(0, len(dataset), _CHUNK)
        path.parent.mkdir(parents=True, exist_ok=True)
        rank, world_size = _place_among_those_who_share(path.parent, look)
        if rank == 0 and not path.is_file():
            _create(partial, done_path, shape, self.dtype, len(starts))
        _of_all(True)
        try:
            done = np.memmap(done_path, np.uint8, "r+", shape=(len(starts), _DIGEST))
            features_ND = np.memmap(partial, self.dtype, "r+", len(_header(shape, self.dtype)), shape)
        except FileNotFoundError:
            if not path.is_file():  # else they are there already, or another run has just finished them
                raise
        else:
            own = [
                start
                for i, start in enumerate(starts)
                if i % world_size == rank
                and not (done[i].any() and np.array_equal(done[i], _digest(features_ND, start)))
            ]
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
                    done[last // _CHUNK] = _digest(features_ND, last // _CHUNK * _CHUNK)
        _of_all(True)
        if rank == 0 and not path.is_file():
            if not done.any(1).all():
                raise RuntimeError(f"{partial} is not complete: a process did not write its part. Run again.")
            with open(partial, "r+b") as file:
                file.write(_header(shape, self.dtype, done.tobytes()))
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


def _header(shape: tuple[int, int], dtype: str, digests: bytes = b"") -> bytes:
    """What a safetensors file with one tensor begins with; as long whatever the digests of its chunks."""
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    content = {
        "__metadata__": {"sha256": hashlib.sha256(digests).hexdigest()},
        "features": {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [0, size]},
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(features_ND: np.ndarray, start: int) -> np.ndarray:
    """sha256 of a chunk, as bytes."""
    return np.frombuffer(hashlib.sha256(features_ND[start : start + _CHUNK].data).digest(), np.uint8)


def _is_whole(path: Path, shape: tuple[int, int], dtype: str) -> bool:
    """Whether a file of features is as it was written, by this version of the package."""
    begin = len(_header(shape, dtype))
    if path.stat().st_size != begin + shape[0] * shape[1] * np.dtype(dtype).itemsize:
        return False
    features_ND = np.memmap(path, dtype, "r", begin, shape)
    digests = b"".join(_digest(features_ND, start).tobytes() for start in range(0, shape[0], _CHUNK))
    with open(path, "rb") as file:
        return file.read(begin) == _header(shape, dtype, digests)


def _create(partial: Path, done_path: Path, shape: tuple[int, int], dtype: str, num_chunks: int) -> None:
    """Empty files for the list of chunks that are there and for features, where there are none. Each appears whole,
    and never in the place of another: a second run may be at the same work.

    Raises:
        OSError: no room.
    """
    header = _header(shape, dtype)
    size = len(header) + shape[0] * shape[1] * np.dtype(dtype).itemsize
    for path, begin, length in ((done_path, b"", num_chunks * _DIGEST), (partial, header, size)):
        if path.is_symlink() or (path.is_file() and path.stat().st_size != length):  # a link would lead elsewhere
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
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno,
                f"{path.parent} has no room for the features: {size:,} bytes are needed, and "
                f"{shutil.disk_usage(path.parent).free:,} are free. Make room, name another folder by "
                "feature_cache_dir, halve them by feature_dtype='float16', or leave feature_cache_dir out to keep "
                "them in memory.",
            ) from error
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

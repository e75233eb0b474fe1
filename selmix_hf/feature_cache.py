"""Pooled features on disk: a second run on the same backbone and data starts at once.

Shape suffixes: N samples, D features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets.fingerprint import Hasher
from safetensors.torch import load_file, save_file
from torch import Tensor

from selmix_hf.features import DatasetPass
from selmix_hf.fingerprint import backbone_fingerprint
from selmix_hf.sampling import SeededDataset


class FeatureCache:
    """Computes features, or reads them where the same backbone, dataset, transform and seed were met before.

    Args:
        folder: where the files lie; None computes always.
        salt: anything else that changes features, such as the precision.
    """

    def __init__(self, folder: str | os.PathLike | None, salt: str = "") -> None:
        self.folder = None if folder is None else Path(folder)
        self.salt = salt

    def features(
        self, look: DatasetPass, dataset: Any, collator: Callable[[list[Any]], dict[str, Any]], seed: int = 0
    ) -> Tensor:
        """Features that enter the head, float32 on the CPU, N x D, on every process.

        Args:
            look: runs the model.
            dataset: only a `datasets.Dataset` has the fingerprint that makes its features storable.
            collator: makes batches of `SeededExample`s; its options are part of the key.
            seed: of what is random in the collator and in the dataset's own transform.
        """
        path = self._path(look, dataset, collator, seed)
        if path is not None and _on_all_processes(path.is_file()):
            return load_file(path)["features"]
        features_ND = look.features(SeededDataset(dataset, [seed]), collator)
        if path is not None and look.rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            save_file({"features": features_ND}, partial)
            os.replace(partial, path)  # whole or not at all
        return features_ND

    def _path(self, look: DatasetPass, dataset: Any, collator: Any, seed: int) -> Path | None:
        if self.folder is None or not hasattr(dataset, "_fingerprint"):
            return None
        parts = [backbone_fingerprint(look.model, look.head.parameters()), dataset._fingerprint, Hasher.hash(collator)]
        key = hashlib.sha256("|".join([*parts, str(seed), self.salt]).encode()).hexdigest()
        return self.folder / f"{key[:32]}.safetensors"


def _on_all_processes(found: bool) -> bool:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everywhere: list[bool] = [False] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everywhere, found)
        return all(everywhere)
    return found

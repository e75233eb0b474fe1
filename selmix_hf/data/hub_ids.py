"""Which datasets of the Hub samples come from."""

from __future__ import annotations

import re
from typing import Any

_SOURCE = re.compile(r"hf://datasets/([^@]+)@")  # what datasets writes of a file that it fetched


def hub_ids(*datasets: Any) -> list[str]:
    """Hub ids of datasets, such as "uoft-cs/cifar10", each once: those of the files that `load_dataset` fetched, which
    selecting, mapping and renaming columns keep. None of data from elsewhere, and of what is no `datasets.Dataset`.

    Args:
        datasets: also wrapped, such as in a `torch.utils.data.Subset`.
    """
    ids: dict[str, None] = {}
    for dataset in datasets:
        while not hasattr(dataset, "info") and hasattr(dataset, "dataset"):
            dataset = dataset.dataset
        sources = getattr(getattr(dataset, "info", None), "download_checksums", None) or {}
        ids |= {found[1]: None for source in sources if (found := _SOURCE.match(str(source)))}
    return list(ids)

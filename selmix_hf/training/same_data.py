"""What a checkpoint knows of the data: a run goes on with the same classes and labels only.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selmix_hf.training.readable import read_json

FILE_NAME = "classes.json"  # in every checkpoint


def data_facts(class_names: Sequence[str], **labels: NDArray[np.integer]) -> dict[str, Any]:
    """What a checkpoint keeps.

    Args:
        class_names: K, by the numbers of the model.
        labels: of each set by its name, shape N.
    """
    sets = {
        title: {"samples": len(own), "sha256": hashlib.sha256(own.astype("<i8").tobytes()).hexdigest()}
        for title, own in labels.items()
    }
    return {"class_names": list(class_names), "labels": sets}


def save_facts(folder: str | os.PathLike[str], facts: dict[str, Any]) -> None:
    """Write them into the folder of a checkpoint, which is made if need be."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / FILE_NAME).write_text(json.dumps(facts), encoding="utf-8")


def require_same_data(folder: str | os.PathLike[str], facts: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of other data; one without the file is older and not compared.

    Raises:
        ValueError: the file is cut; classes of other names, or other labels in a set of the same name.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return
    before = read_json(path)
    advice = "A run goes on with the data that it began with: give those, or start anew from the checkpoint's weights."
    then, now = before["class_names"], facts["class_names"]
    if then != now:
        k = next((k for k, pair in enumerate(zip(then, now, strict=False)) if pair[0] != pair[1]), None)
        found = f"{len(then)} classes, here {len(now)}" if k is None else f"{then[k]!r} as class {k}, here {now[k]!r}"
        raise ValueError(f"{folder} has {found}. {advice}")
    for title, own in facts["labels"].items():
        known = before["labels"].get(title, own)
        if known != own:
            others = (
                f"{own['samples']} now" if own["samples"] != known["samples"] else "others now, or in another order"
            )
            raise ValueError(
                f"{folder} was made with {known['samples']} labels of {title}, which has {others}. {advice}"
            )

"""Whether a model numbers its classes otherwise than the data, which only its predictions tell where it has no names.

Shape suffix: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from selmix_hf.data.classes import default_names

_CHANCE = 1e-3  # of a cycle where no more than half of each class would be predicted so
_SHOWN = 20  # classes


def cycles_of(counts: Tensor) -> list[list[int]]:
    """Two or more classes each, most samples of each of which are predicted as the next, and of the last as the first.

    A cycle counts where it is no chance, by Chernoff's bound (1952, Ann. Math. Stat. 23, doi 10.1214/aoms/1177729330):
    the product over its classes of exp(-n KL(share, 1/2)).

    Args:
        counts: K x K, rows true classes.
    """
    counts_KK = counts.cpu().numpy()
    next_K, size_K = counts_KK.argmax(1), np.maximum(counts_KK.sum(1), 1)
    share_K = counts_KK.max(1) / size_K
    found, seen = [], share_K <= 0.5
    for start in range(len(next_K)):
        path: list[int] = []
        k = start
        while not seen[k]:
            seen[k] = True
            path.append(k)
            k = int(next_K[k])
        cycle = path[path.index(k) :] if k in path else []
        evidence = sum(size_K[k] * _divergence(share_K[k]) for k in cycle)
        if len(cycle) > 1 and evidence > -math.log(_CHANCE):
            found.append(cycle)
    return found


def _divergence(share: float) -> float:
    """Of Kullback and Leibler, from a coin that shows so much to a fair one."""
    return math.log(2) + sum(p * math.log(p) for p in (share, 1 - share) if p > 0)


def sentence_on_cycles(counts: Tensor, class_names: Sequence[str]) -> str | None:
    """What is to be said before training, or None.

    Args:
        counts: K x K, of the gain set under the weights that the run begins with.
        class_names: K.
    """
    cycles = cycles_of(counts)
    if not cycles:
        return None
    unnamed = list(class_names) == default_names(len(class_names))  # then numbers are given
    order: list[str | int] = list(range(len(class_names))) if unnamed else list(class_names)
    own = list(order)
    for cycle in cycles:
        for k, predicted in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            order[predicted] = own[k]
    first = cycles[0][:_SHOWN]
    shown = ", ".join(f"{class_names[k]!r} as {class_names[int(counts[k].argmax())]!r}" for k in first)
    helps = f"class_order={order}" if len(order) <= _SHOWN else "class_order, the classes in the order of its outputs"
    return (
        f"most samples of some classes in gain_dataset are predicted as one another, in a cycle: {shown}"
        f"{', ...' * (len(cycles) > 1 or len(cycles[0]) > _SHOWN)}. The model may number its classes otherwise than "
        "the data; training would then learn the numbers anew, and its gains would be none. If so, give the trainer "
        f"{helps}."
    )

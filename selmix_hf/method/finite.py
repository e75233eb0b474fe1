"""Whether a tensor is finite, and where it is not."""

from __future__ import annotations

import math

from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """A finite sum proves it in one pass; only an overflowing one needs the look at every entry."""
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def first_not_finite(tensor: Tensor) -> int:
    """Number of the first row (of the first dimension) with an entry that is not finite, which one must have."""
    return int(tensor.isfinite().logical_not().reshape(len(tensor), -1).any(1).int().argmax())

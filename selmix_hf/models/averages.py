"""An exponential moving average of weights: of the parameters that are trained, or of a whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """After each step: average = d average + (1 - d) weights (Tarvainen and Valpola 2017, arXiv 1703.01780, eq. 7).

    What is no floating-point number, such as a count, has the value of the latest step.

    Args:
        weights: gives the current ones by name, such as a model's `state_dict`; the average begins at their values.

    Attributes:
        tensors: the average, by name, in float32 or better.
    """

    def __init__(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        self._weights = weights
        self.tensors = {name: _precise(weight) for name, weight in weights().items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """After a step of the optimizer; `decay` is d, and 0 takes the latest weights."""
        for name, weight in self._weights().items():
            average = self.tensors[name]
            if weight.is_floating_point():
                average.lerp_(weight.detach().to(average), 1 - decay)
            else:
                average.copy_(weight)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved `tensors`."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the weights have the average's values."""
        own = {name: weight.detach().clone() for name, weight in self._weights().items()}
        self.settle()
        try:
            yield
        finally:
            self._assign(own)

    def settle(self) -> None:
        """Give the weights the average's values for good."""
        self._assign(self.tensors)

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Tensor]) -> None:
        for name, weight in self._weights().items():
            weight.copy_(tensors[name])


def _precise(weight: Tensor) -> Tensor:
    """A copy, float32 for what is less: a thousandth of a step would be rounded away."""
    dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else weight.dtype
    return weight.detach().to(dtype, copy=True)

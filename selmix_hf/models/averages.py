"""An exponential moving average of the parameters that are trained; of whole models see `semi_supervised.average`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterAverage:
    """w_t = d w_(t-1) + (1 - d) theta_t of parameters theta (Tarvainen and Valpola 2017, arXiv 1703.01780).

    Args:
        parameters: by name; the average begins at their values.
        decay: d.

    Attributes:
        tensors: the average, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = dict(parameters), decay
        # float32 for what is less: a thousandth of a step would be rounded away
        self.tensors = {
            name: parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimizer."""
        for name, average in self.tensors.items():
            average.lerp_(self.parameters[name].detach().to(average), 1 - self.decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved `tensors`."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have the average's values."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._assign(self.tensors)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

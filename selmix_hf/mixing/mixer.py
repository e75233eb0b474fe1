"""Mixing before the model: a batch of B inputs is made of one of 2B, with the model's own saliency where needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.mixing.puzzlemix import saliency
from selmix_hf.mixing.registry import MIXING, NamedMixing
from selmix_hf.models.head import logits_of, undisturbed

DRAWN = ("mixing_coefficient", "mixing_index", "mixing_uniform", "second_labels")  # of a batch, not for the model

Mixing = Callable[[Tensor, Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]


class InputMixer:
    """Mixes the inputs of a training batch, and keeps the mean share of the first samples.

    Args:
        mixing: a name in `registry.MIXING` of what mixes before the model, or a function (first, second, coefficient)
            -> mixed, or (mixed, share), of tensors B x ..., B x ... and B.
        model: gives the saliency, where the mixing needs it.

    Attributes:
        name: of the mixing.
    """

    def __init__(self, mixing: str | Mixing, model: nn.Module) -> None:
        self.model = model
        self.name = mixing if isinstance(mixing, str) else getattr(mixing, "__name__", type(mixing).__name__)
        self._entry = MIXING[mixing] if isinstance(mixing, str) else NamedMixing(mix=partial(self._own, mixing))
        self._sum: Tensor | float = 0.0
        self._count = 0

    def __call__(self, inputs: Mapping[str, Any], labels: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's inputs, B rows.

        Args:
            inputs: one floating-point tensor, 2B rows, or those that "mixing_index" names.
            labels: classes of the first samples, B.
            drawn: "mixing_coefficient" and, of `SelMixCollator`, what else the mixing needs.
        """
        ((name, rows),) = inputs.items()
        first, second = (rows[drawn["mixing_index"]] if "mixing_index" in drawn else rows).chunk(2)
        coefficient = drawn["mixing_coefficient"]
        more = []
        if self._entry.num_uniform:
            more.append(drawn["mixing_uniform"][:, : self._entry.num_uniform].squeeze(1))
        if self._entry.needs_saliency:
            classes = torch.cat([labels, drawn["second_labels"]])
            with undisturbed(self.model):
                self.model.eval()
                both = saliency(torch.cat([first, second]), classes, lambda x: logits_of(self.model(**{name: x})))
            more += both.chunk(2)
        assert self._entry.mix is not None
        mixed, share = self._entry.mix(first, second, coefficient, *more)
        self._sum += share.detach().sum()
        self._count += len(share)
        return {name: mixed}

    def _own(self, mixing: Mixing, first: Tensor, second: Tensor, coefficient: Tensor) -> tuple[Tensor, Tensor]:
        answer: Any = mixing(first, second, coefficient)
        mixed, share = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, coefficient)
        for part, like in ((mixed, first), (share, coefficient)):
            if not isinstance(part, Tensor) or part.shape != like.shape:
                found = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(
                    f"mixing {self.name!r} must return mixed inputs {list(first.shape)}, alone or with the shares of "
                    f"the first samples {list(coefficient.shape)}, found {found}."
                )
        return mixed, share

    def mean_share(self) -> float:
        """Of the first samples since the last call; nan without any."""
        mean = float(self._sum) / self._count if self._count else float("nan")
        self._sum, self._count = 0.0, 0
        return mean

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Try a batch of two samples, so that what cannot be mixed is told before training.

        Raises:
            ValueError: other inputs than one floating-point tensor, no images where those are needed, or what the
                mixing itself refuses.
        """
        images = self._entry.needs_pixels
        wanted = "images [B, C, H, W]" if images else "[B, ...]"
        values = list(inputs.values())
        tensor = values[0] if len(values) == 1 and isinstance(values[0], Tensor) else None
        if tensor is None or not tensor.is_floating_point() or (images and tensor.ndim != 4):
            found = ", ".join(
                f"{name} ({getattr(value, 'dtype', type(value).__name__)} {list(getattr(value, 'shape', []))})"
                for name, value in inputs.items()
            )
            raise ValueError(
                f"mixing={self.name!r} mixes what enters the model, which must be one floating-point tensor, "
                f"{wanted}; found {found}. Texts, masks and the like cannot be mixed: leave mixing='feature', which "
                "mixes what enters the head."
            )
        zero = torch.zeros(1, dtype=torch.long, device=tensor.device)
        uniform = torch.full((1, 2), 0.5, device=tensor.device)
        drawn = {"mixing_coefficient": uniform[:, 0] + 0.25, "mixing_uniform": uniform, "second_labels": zero}
        with isolated_random_state(0):
            self(inputs, zero, drawn)
        self.mean_share()

"""The mixings that have a name, and what the package has to know of each. To add one: a module, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from selmix_hf.mixing.mixup import cutmix, input_mixup
from selmix_hf.mixing.puzzlemix import puzzlemix


@dataclass(frozen=True, kw_only=True)
class NamedMixing:
    """An entry of `MIXING`.

    Attributes:
        mix: (first, second, coefficient, ...) -> (mixed, share of the first), of inputs B x ..., B x ... and B, with
            what else is asked for below, in that order. None: what enters the head is mixed, by `ClassifierHead.mix`.
        num_uniform: numbers in [0, 1) that a pair needs, 1 (shape B) or 2 (B x 2).
        needs_saliency: of the first and of the second images under the model, B x H x W each.
        needs_pixels: images B x C x H x W; else any floating-point tensor.
        on_features: whether a frozen backbone's stored features can be mixed so.
    """

    mix: Callable[..., tuple[Tensor, Tensor]] | None = None
    num_uniform: int = 0
    needs_saliency: bool = False
    needs_pixels: bool = False
    on_features: bool = False

    @property
    def before_model(self) -> bool:
        """Whether the model is given one mixed input a pair, instead of two."""
        return self.mix is not None


MIXING = {
    "feature": NamedMixing(on_features=True),
    "input": NamedMixing(mix=input_mixup),
    "cutmix": NamedMixing(mix=cutmix, num_uniform=2, needs_pixels=True),
    "puzzlemix": NamedMixing(mix=puzzlemix, num_uniform=1, needs_saliency=True, needs_pixels=True),
}

"""How two batches of inputs become one: input mixup and CutMix.

Every pair is mixed by itself, and what is random comes in as numbers: how pairs are cut into batches changes nothing.

Shape suffixes: B pairs, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def input_mixup(first: Tensor, second: Tensor, coefficient: Tensor) -> tuple[Tensor, Tensor]:
    """coefficient * first + (1 - coefficient) * second (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        first, second: inputs, B x ...
        coefficient: share of the first, B.

    Returns:
        mixed inputs, B x ..., and the share of the first, B.
    """
    weight = coefficient.to(first).reshape(-1, *[1] * (first.ndim - 1))
    return torch.lerp(second, first, weight), coefficient


def mix_with_partners(values: Tensor, partners: Tensor, share: Tensor | float) -> Tensor:
    """share * values + (1 - share) * values[partners]: each row of a batch with another row of it, or itself.

    Args:
        values: R rows of any shape.
        partners: row number of each row's partner, R.
        share: of each row itself, R, or one number for all.
    """
    if isinstance(share, Tensor):
        share = share.view(-1, *[1] * (values.ndim - 1))
    return share * values + (1 - share) * values[partners]


def cutmix(first: Tensor, second: Tensor, coefficient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first images with a box of the second (Yun et al. 2019, arXiv 1905.04899), as torchvision's `v2.CutMix` cuts
    it: centred on any pixel, sides sqrt(1 - coefficient) of the image's, cut off at its border.

    Args:
        first, second: images, B x C x H x W.
        coefficient: wanted share of the first, B.
        uniform: numbers in [0, 1) that fix the centre (x, y), B x 2.

    Returns:
        mixed images, B x C x H x W, and the share of the first that is really left, B: the box is smaller where it is
        cut off or rounded.
    """
    half_B = 0.5 * torch.sqrt(1 - coefficient)
    inside = []
    for axis, size in enumerate((first.shape[3], first.shape[2])):
        centre_B = (uniform[:, axis] * size).long().clamp(max=size - 1)
        reach_B = (half_B * size).long()
        place_S = torch.arange(size, device=first.device)
        inside.append(((centre_B - reach_B)[:, None] <= place_S) & (place_S < (centre_B + reach_B)[:, None]))
    box_BHW = inside[1][:, :, None] & inside[0][:, None, :]
    return torch.where(box_BHW[:, None], second, first), 1 - box_BHW.float().mean((1, 2))

"""PuzzleMix: what is salient in two images, kept in one (Kim, Choo, Song 2020, arXiv 2009.06962).

An image is cut into n x n blocks. A mask gives every block a share of the first image, 0, 1/m, .. 1; then blocks of
each image may change places, so that what is salient lies where its image is shown. What differs from the paper:

- the label stays the first image's; the coefficient is the share that its mask really has;
- the mask comes from the linear relaxation of the graph cut, by a primal-dual method on the whole batch, in place of
  alpha-beta swaps by a graph-cut library, image after image;
- blocks move by exchanges, each the best for both of its blocks, as long as any lowers the cost, in place of rows that
  bid for columns: the result is a permutation that never costs more than to leave all in place;
- neighbours are compared where they touch, on strips of at most 4 pixels, with a pair's pixel values scaled to [0, 1];
- n is drawn for every pair, not for every batch.

Weights, m = 2 and n from 2 to 16 are those of the authors' code. Shape suffixes: B pairs, C channels, H x W pixels,
n x n blocks, L = m + 1 shares, P = n^2 places, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = (2, 4, 8, 16)
LEVELS = 2  # m
LABEL_SMOOTHNESS, DATA_SMOOTHNESS, PRIOR, TRANSPORT_COST = 1.2, 0.5, 0.2, 0.8  # beta, gamma, eta, xi
_STRIP = 4  # pixels
_IMPOSSIBLE = 1e4  # minus the logarithm of 0: beyond all that saliency can weigh, and finite
_ITERATIONS = 100
_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
_ROUNDING = 1e-7


def saliency(images: Tensor, labels: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Norm over the channels of the gradient of the cross entropy with respect to the image.

    Args:
        images: N x C x H x W.
        labels: N.
        logits: gives those (N x K) of the images; no gradient reaches its parameters.

    Returns:
        N x H x W, float32.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        loss = F.cross_entropy(logits(images).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    norms: Tensor = gradient.float().norm(dim=1)
    return norms


def puzzlemix(
    first: Tensor,
    second: Tensor,
    coefficient: Tensor,
    uniform: Tensor,
    first_saliency: Tensor,
    second_saliency: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mix images block by block.

    Args:
        first, second: images, B x C x H x W, of any scale.
        coefficient: wanted share of the first, B.
        uniform: numbers in [0, 1) that choose n among those of `block_counts`, B.
        first_saliency, second_saliency: not negative, B x H x W.

    Returns:
        mixed images, B x C x H x W, and the share of the first in each, B.

    Raises:
        ValueError: sides that cannot be cut into equal blocks.
    """
    counts = block_counts(*first.shape[2:])
    chosen_B = (uniform * len(counts)).long().clamp(max=len(counts) - 1)
    mixed, share_B = torch.empty_like(first), torch.empty_like(coefficient)
    for number, n in enumerate(counts):
        rows = (chosen_B == number).nonzero()[:, 0]
        if len(rows):
            of_both = (pixels[rows] for pixels in (first, second, first_saliency, second_saliency))
            mixed[rows], share_B[rows] = _mix(n, coefficient[rows], *of_both)
    return mixed, share_B


def block_counts(height: int, width: int) -> list[int]:
    """The n of `BLOCKS` that divide both sides.

    Raises:
        ValueError: none does.
    """
    counts = [n for n in BLOCKS if height % n == width % n == 0]
    if not counts:
        raise ValueError(
            f"puzzlemix cuts images into 2 x 2 to 16 x 16 equal blocks, found {height} x {width} pixels: resize them "
            "to even sides, best to multiples of 16."
        )
    return counts


def _mix(
    n: int, coefficient: Tensor, first: Tensor, second: Tensor, first_saliency: Tensor, second_saliency: Tensor
) -> tuple[Tensor, Tensor]:
    saliencies = block_saliency(first_saliency, n), block_saliency(second_saliency, n)
    mask_Bnn = optimal_mask(*mask_energy(*saliencies, coefficient, *border_distances(first, second, n)))
    first = move_blocks(first, transport(saliencies[0], mask_Bnn > 0))
    second = move_blocks(second, transport(saliencies[1], mask_Bnn < 1))
    height, width = first.shape[2] // n, first.shape[3] // n
    weight_BHW = mask_Bnn.repeat_interleave(height, 1).repeat_interleave(width, 2)
    return torch.lerp(second, first, weight_BHW[:, None].to(first)), mask_Bnn.mean((1, 2))


def block_saliency(saliency: Tensor, n: int) -> Tensor:
    """Share of each block in an image's saliency, B x n x n, summing to 1; equal shares where there is none.

    Args:
        saliency: B x H x W.
        n: blocks in a row and in a column.
    """
    blocks_Bnn = _blocks(saliency, n).mean((2, 4))
    total_B = blocks_Bnn.sum((1, 2), keepdim=True)
    return torch.where(total_B > 0, blocks_Bnn / total_B, 1 / n**2)


def _blocks(pixels: Tensor, n: int) -> Tensor:
    """... x H x W as ... x n x H/n x n x W/n."""
    *rest, height, width = pixels.shape
    return pixels.reshape(*rest, n, height // n, n, width // n)


def border_distances(first: Tensor, second: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """How much a block of one image differs from its neighbour of one image, where they touch.

    Args:
        first, second: images, B x C x H x W.
        n: blocks in a row and in a column.

    Returns:
        between a block and the one below, B x 2 x 2 x (n - 1) x n, and the one to its right, B x 2 x 2 x n x (n - 1);
        [:, a, b] where the upper or left block comes from image a and the other from image b. Mean absolute difference
        of strips along the border, pixel values scaled to [0, 1].
    """
    pair = torch.stack([first, second], 1).float()
    low, high = pair.amin((1, 2, 3, 4), keepdim=True), pair.amax((1, 2, 3, 4), keepdim=True)
    pair = (pair - low) / (high - low).clamp(min=torch.finfo(pair.dtype).tiny)

    def to_the_right(pair: Tensor) -> Tensor:
        blocks = _blocks(pair, n)  # B x 2 x C x n x h x n x w
        strip = min(_STRIP, blocks.shape[-1])
        ends, starts = blocks[..., -strip:].mean(-1), blocks[..., :strip].mean(-1)
        difference = ends[:, :, None, ..., :-1] - starts[:, None, ..., 1:]
        return difference.abs().mean((3, 5))

    return to_the_right(pair.mT).mT, to_the_right(pair)


def mask_energy(
    first_saliency: Tensor, second_saliency: Tensor, coefficient: Tensor, below: Tensor, right: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The energy of a mask z, which is small where z shows what is salient, is smooth and near the wanted share:

        - sum_i z_i s1_i + (1 - z_i) s2_i - eta / n^2 sum_i log p(z_i)
        + beta / (16 n) sum_ij ((z_i - z_j)^2 + gamma phi_ij(z_i, z_j))

    over blocks i and neighbours ij, with p binomial, m draws at the wanted share, and phi the border distance,
    bilinear between whole blocks. Powers of one z_i go into a table, which leaves a product z_i z_j for neighbours.

    Args:
        first_saliency, second_saliency: s1 and s2 of `block_saliency`, B x n x n.
        coefficient: wanted share of the first, B.
        below, right: of `border_distances`.

    Returns:
        unary (B x L x n x n), the energy of each share in each block, convex in the share, up to a constant; vertical
        (B x (n - 1) x n) and horizontal (B x n x (n - 1)), the factors, not positive, of the products of neighbours.
    """
    n = first_saliency.shape[-1]
    label_weight = LABEL_SMOOTHNESS / (16 * n)
    data_weight = label_weight * DATA_SMOOTHNESS
    linear_Bnn, square_Bnn = second_saliency - first_saliency, torch.zeros_like(first_saliency)
    products = []
    for axis, distance in ((1, below), (2, right)):
        both_first, first_second, second_first, both_second = distance.flatten(1, 2).unbind(1)
        for begin, change in ((0, first_second - both_second), (1, second_first - both_second)):
            linear_Bnn.narrow(axis, begin, n - 1).add_(data_weight * change)
            square_Bnn.narrow(axis, begin, n - 1).add_(label_weight)
        products.append(data_weight * (both_first - first_second - second_first + both_second) - 2 * label_weight)
    draws_L = torch.arange(LEVELS + 1, device=coefficient.device, dtype=torch.float32)
    ways_L = draws_L.new_tensor([math.comb(LEVELS, k) for k in range(LEVELS + 1)])
    share_B1 = coefficient.float()[:, None]
    of_first_B1, of_second_B1 = (share.log().clamp(min=-_IMPOSSIBLE) for share in (share_B1, 1 - share_B1))
    prior_BL = -PRIOR / n**2 * (ways_L.log() + draws_L * of_first_B1 + (LEVELS - draws_L) * of_second_B1)
    z_L11 = (draws_L / LEVELS)[:, None, None]
    unary_BLnn = z_L11 * linear_Bnn[:, None] + z_L11**2 * square_Bnn[:, None] + prior_BL[..., None, None]
    return unary_BLnn, products[0], products[1]


def optimal_mask(unary: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """The mask of least energy.

    A share of t / m is a sum of m bits "at least s / m", and the energy a sum over bits and over unequal bits of
    neighbours: a graph cut. Its linear relaxation, which has the same minimum, is approached by the method of
    Chambolle and Pock (2011, algorithm 1) in a fixed number of steps, so that no pair depends on the others; of the
    masks at several thresholds the best is taken.

    Args:
        unary: B x L x n x n, convex in the share.
        vertical, horizontal: factors of neighbours' products, not positive, B x (n - 1) x n and B x n x (n - 1).

    Returns:
        shares in 0, 1/m, .. 1, B x n x n.
    """
    levels, n = unary.shape[1] - 1, unary.shape[-1]
    cut_Bnn = torch.zeros_like(unary[:, 0])
    bounds = []
    for axis, product in ((2, vertical), (3, horizontal)):  # -w b b' = w / 2 (|b - b'| - b - b')
        bounds.append((product / (-2 * levels**2))[:, None, None])
        for begin in (0, 1):
            cut_Bnn.narrow(axis - 1, begin, n - 1).add_(bounds[-1][:, 0, 0])
    slope_Bmnn = unary.diff(dim=1) - levels * cut_Bnn[:, None]
    bit_Bmnn = torch.full_like(slope_Bmnn, 0.5)
    ahead_Bmnn = bit_Bmnn
    dual = [bound.new_zeros(len(unary), levels, levels, *bound.shape[3:]) for bound in bounds]
    step = 3 * math.sqrt(2 * levels**3) * n / LABEL_SMOOTHNESS  # of the bits: about one over the slope of a block
    dual_step = 1 / (8 * levels * step)  # the largest that converges: 8 m bounds the squared norm of the differences
    for _ in range(_ITERATIONS):
        gradient_Bmnn = slope_Bmnn.clone()
        for number, (axis, bound) in enumerate(zip((2, 3), bounds, strict=True)):
            upper, lower = ahead_Bmnn.narrow(axis, 0, n - 1), ahead_Bmnn.narrow(axis, 1, n - 1)
            rise = lower[:, :, None] - upper[:, None]
            dual[number] = (dual[number] + dual_step * rise).clamp(-bound, bound)
            gradient_Bmnn.narrow(axis, 1, n - 1).add_(dual[number].sum(2))
            gradient_Bmnn.narrow(axis, 0, n - 1).sub_(dual[number].sum(1))
        before_Bmnn, bit_Bmnn = bit_Bmnn, (bit_Bmnn - step * gradient_Bmnn).clamp(0, 1)
        ahead_Bmnn = 2 * bit_Bmnn - before_Bmnn
    masks_TBnn = torch.stack([(bit_Bmnn > threshold).float().mean(1) for threshold in _THRESHOLDS])
    best_B = torch.stack([energy_of(mask_Bnn, unary, vertical, horizontal) for mask_Bnn in masks_TBnn]).argmin(0)
    return masks_TBnn[best_B, torch.arange(len(best_B), device=best_B.device)]


def energy_of(mask: Tensor, unary: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Energies (B) of masks (B x n x n), from the tables of `mask_energy`."""
    level_B1nn = (mask * (unary.shape[1] - 1)).round().long()[:, None]
    own_B = unary.gather(1, level_B1nn).sum((1, 2, 3))
    vertical_B = (vertical * mask[:, 1:] * mask[:, :-1]).sum((1, 2))
    return own_B + vertical_B + (horizontal * mask[:, :, 1:] * mask[:, :, :-1]).sum((1, 2))


def transport(saliency: Tensor, shown: Tensor) -> Tensor:
    """Which block comes to lie where, so that salient ones are shown and few move far: a low cost

        sum over places p of xi |p - from(p)|^2 / (n - 1)^2 - shown_p saliency_from(p)

    from leaving all in place by exchanges, each the best one for both of its blocks, until none lowers it.

    Args:
        saliency: of the blocks, B x n x n.
        shown: where the mask shows the image at all, bool, B x n x n.

    Returns:
        from(p), a permutation of the n^2 blocks in rows, B x n^2.
    """
    n = saliency.shape[-1]
    place = torch.arange(n * n, device=saliency.device)
    row, column = (place // n).float(), (place % n).float()
    distance_PP = ((row[:, None] - row) ** 2 + (column[:, None] - column) ** 2) / (n - 1) ** 2
    cost_BPP = TRANSPORT_COST * distance_PP - saliency.flatten(1)[:, :, None] * shown.flatten(1)[:, None]
    source_BP = place.expand(len(saliency), -1)
    while True:
        here_BPP = cost_BPP.gather(1, source_BP[:, :, None].expand_as(cost_BPP))  # what lies at p, moved to q
        own_BP = here_BPP.diagonal(dim1=1, dim2=2)
        change_BPP = here_BPP + here_BPP.mT - own_BP[:, :, None] - own_BP[:, None]
        least_BP, partner_BP = change_BPP.min(2)
        mutual_BP = (partner_BP.gather(1, partner_BP) == place) & (least_BP < -_ROUNDING)
        if not bool(mutual_BP.any()):
            return source_BP
        source_BP = torch.where(mutual_BP, source_BP.gather(1, partner_BP), source_BP)


def move_blocks(images: Tensor, source: Tensor) -> Tensor:
    """The images with block `source[:, p]` at place p.

    Args:
        images: B x C x H x W.
        source: permutations of n^2 blocks, B x n^2.
    """
    n = math.isqrt(source.shape[1])
    blocks = _blocks(images, n).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # B x n^2 x C x h x w
    moved = blocks[torch.arange(len(source), device=source.device)[:, None], source]
    whole: Tensor = moved.unflatten(1, (n, n)).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
    return whole

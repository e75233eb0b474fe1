"""PuzzleMix: energy by definition, masks against all masks and a graph cut, exchanges against exact assignment."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from selmix_hf.mixing.puzzlemix import (
    BLOCKS,
    block_counts,
    block_saliency,
    border_distances,
    energy_of,
    mask_energy,
    move_blocks,
    optimal_mask,
    puzzlemix,
    saliency,
    transport,
)


def pairs(num_pairs, n, side=32, seed=0):
    """Images with bright spots, and saliency that lies where they are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, num_pairs, 1, 8, 8, generator=generator) ** 6
    spots = F.interpolate(coarse.flatten(0, 1), size=side, mode="bilinear").unflatten(0, (2, num_pairs))
    images = spots + 0.1 * torch.rand(2, num_pairs, 3, side, side, generator=generator)
    first, second = (block_saliency(part[:, 0], n) for part in spots)
    return images, spots[:, :, 0], (first, second)


def tables(num_pairs, n, coefficient, seed=0):
    images, _, saliencies = pairs(num_pairs, n, side=4 * n, seed=seed)
    return mask_energy(*saliencies, torch.full((num_pairs,), coefficient), *border_distances(*images, n))


def all_masks(n):
    return torch.tensor(list(itertools.product((0.0, 0.5, 1.0), repeat=n * n))).reshape(-1, n, n)


def test_saliency_by_hand():
    """Of logits W x with one channel a class: the gradient is W^T (p - e)."""
    weight = torch.tensor([[[2.0]], [[-1.0]]], requires_grad=True)  # K x C x 1, one pixel, one channel
    images = torch.zeros(1, 1, 1, 1)
    found = saliency(images, torch.tensor([0]), lambda x: (weight[:, 0] * x.flatten()).T)
    assert found.tolist() == [[[1.5]]]  # |2 (1/2 - 1) - 1 (1/2)|
    assert weight.grad is None and not images.requires_grad


def test_saliency_is_the_norm_over_channels():
    images, labels = torch.randn(4, 3, 5, 5), torch.tensor([0, 1, 2, 1])
    weight = torch.randn(3, 75)
    with torch.no_grad():  # as inside a trainer's pass
        found = saliency(images, labels, lambda x: x.flatten(1) @ weight.T)
    error = (images.flatten(1) @ weight.T).softmax(1) - F.one_hot(labels, 3)
    assert torch.allclose(found, (error @ weight).reshape(4, 3, 5, 5).norm(dim=1), atol=1e-5)


def test_blocks_share_the_saliency():
    pixels = torch.zeros(2, 4, 4)
    pixels[0, :2, 2:] = 3.0
    pixels[0, 3, 0] = 4.0
    assert block_saliency(pixels, 2)[0].tolist() == [[0.0, 0.75], [0.25, 0.0]]
    assert block_saliency(pixels, 2)[1].tolist() == [[0.25, 0.25], [0.25, 0.25]]  # none anywhere


def test_border_distances_by_hand():
    """Left half 0 and right half 10 against a uniform 5."""
    first, second = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 5.0)
    first[..., 8:] = 10.0
    below, right = border_distances(first, second, 2)
    assert below.shape == (1, 2, 2, 1, 2) and right.shape == (1, 2, 2, 2, 1)
    assert below[0, :, :, 0, 0].tolist() == [[0.0, 0.5], [0.5, 0.0]]
    assert right[0, :, :, 0, 0].tolist() == [[1.0, 0.5], [0.5, 0.0]]
    shifted = border_distances(3 * first - 7, 3 * second - 7, 2)  # any normalisation
    assert torch.allclose(shifted[0], below) and torch.allclose(shifted[1], right)


def test_the_energy_is_that_of_the_definition():
    """All 81 masks of 2 x 2 blocks, term by term."""
    images, _, (s1, s2) = pairs(3, 2)
    below, right = border_distances(*images, 2)
    coefficient = torch.tensor([0.6, 0.75, 0.9])
    own = mask_energy(s1, s2, coefficient, below, right)

    def edge(z_i, z_j, d):
        phi = (
            z_i * z_j * d[0, 0]
            + z_i * (1 - z_j) * d[0, 1]
            + (1 - z_i) * z_j * d[1, 0]
            + (1 - z_i) * (1 - z_j) * d[1, 1]
        )
        return 1.2 / (16 * 2) * ((z_i - z_j) ** 2 + 0.5 * phi)

    for pair in range(3):
        expected, found = [], []
        for z in all_masks(2):
            share = float(coefficient[pair])
            energy = -(z * s1[pair] + (1 - z) * s2[pair]).sum()
            for count in (2 * z.flatten()).int().tolist():
                energy -= 0.2 / 4 * math.log(math.comb(2, count) * share**count * (1 - share) ** (2 - count))
            for k in range(2):
                energy += edge(z[0, k], z[1, k], below[pair, :, :, 0, k])
                energy += edge(z[k, 0], z[k, 1], right[pair, :, :, k, 0])
            expected.append(float(energy))
            found.append(float(energy_of(z[None], *(table[pair : pair + 1] for table in own))))
        difference = np.array(found) - np.array(expected)
        assert np.ptp(expected) > 0.2 and np.ptp(difference) < 1e-5  # equal up to a constant


@pytest.mark.parametrize("coefficient", [0.5, 0.6, 0.8, 0.95])
def test_the_mask_is_the_best_of_all(coefficient):
    """3^9 masks of 3 x 3 blocks."""
    own = tables(12, 3, coefficient)
    masks = all_masks(3)
    found = energy_of(optimal_mask(*own), *own)
    for pair in range(12):
        every = energy_of(masks, *(table[pair : pair + 1].expand(len(masks), *table.shape[1:]) for table in own))
        assert float(found[pair]) == pytest.approx(float(every.min()), abs=1e-6)


def graph_cut(unary, vertical, horizontal, scale=2**24):
    """The exact minimum, by maximum flow: node (t, block) is on the source's side where the share is at least
    (t + 1) / m."""
    levels, n = len(unary) - 1, unary.shape[-1]
    number = np.arange(levels * n * n).reshape(levels, n, n)
    source, sink = number.size, number.size + 1
    cost = np.diff(unary.double().numpy(), axis=0)
    rows, columns, capacities = [], [], []

    def arcs(start, end, capacity):
        rows.append(np.ravel(start))
        columns.append(np.ravel(end))
        capacities.append(np.broadcast_to(capacity, np.shape(start)).ravel())

    for s, t in itertools.product(range(levels), repeat=2):  # q b b' = q b - q b (1 - b')
        for product, begin, end in (
            (vertical, np.s_[:-1], np.s_[1:]),
            (horizontal, np.s_[:, :-1], np.s_[:, 1:]),
        ):
            weight = product.double().numpy() / levels**2
            cost[s][begin] += weight
            arcs(number[s][begin], number[t][end], -weight)
    for t in range(1, levels):
        arcs(number[t], number[t - 1], 10.0)
    arcs(number, np.full_like(number, sink), np.maximum(cost, 0))
    arcs(np.full_like(number, source), number, np.maximum(-cost, 0))
    whole = (np.concatenate(capacities) * scale).round().astype(np.int32)
    graph = coo_matrix((whole, (np.concatenate(rows), np.concatenate(columns))), shape=(sink + 1, sink + 1)).tocsr()
    left = graph - maximum_flow(graph, source, sink).flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reached = np.isin(number, breadth_first_order(left, source, return_predecessors=False))
    return torch.from_numpy(reached.mean(0)).float()


@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize("coefficient", [0.6, 0.85])
def test_the_mask_is_that_of_a_graph_cut(n, coefficient):
    own = tables(4, n, coefficient)
    found, start = energy_of(optimal_mask(*own), *own), energy_of(torch.ones(4, n, n), *own)
    exact = torch.stack([graph_cut(*(table[pair] for table in own)) for pair in range(4)])
    best = energy_of(exact, *own)
    assert (start - best).min() > 0.01
    assert (found - best).max() < 1e-4 and (found - best).min() > -1e-5


def costs(weights, shown, n):
    place = np.stack(np.divmod(np.arange(n * n), n), 1)
    distance = ((place[:, None] - place) ** 2).sum(2) / (n - 1) ** 2
    return 0.8 * distance - weights.flatten().numpy()[:, None] * shown.flatten().numpy()


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_exchanges_reach_the_best_assignment(n):
    """Exactly on small grids; within 5% of what moving blocks can gain on 8 x 8."""
    generator = torch.Generator().manual_seed(n)
    weights = block_saliency(torch.rand(16, n, n, generator=generator) ** 8, n)
    shown = torch.rand(16, n, n, generator=generator) < 0.4
    source = transport(weights, shown)
    gains = []
    for pair in range(16):
        assert sorted(source[pair].tolist()) == list(range(n * n))
        cost = costs(weights[pair], shown[pair], n)
        stay, found = np.trace(cost), cost[source[pair], np.arange(n * n)].sum()
        best = cost[linear_sum_assignment(cost)].sum()
        assert best - 1e-6 <= found <= stay + 1e-6
        gains.append((stay - found, stay - best))
    found, best = np.sum(gains, 0)
    assert n == 2 or best > 0.1
    assert found == pytest.approx(best, abs=1e-5) if n < 8 else found > 0.95 * best


def test_a_salient_block_moves_under_the_mask():
    weights = torch.full((1, 8, 8), 0.1 / 63)
    weights[0, 3, 4] = 0.9
    shown = torch.zeros(1, 8, 8, dtype=torch.bool)
    shown[0, :, :4] = True
    source = transport(weights, shown)[0].tolist()
    assert source[3 * 8 + 3] == 3 * 8 + 4 and source[3 * 8 + 4] == 3 * 8 + 3
    assert sum(p != q for p, q in enumerate(source)) == 2
    assert transport(weights, ~shown)[0].tolist() == list(range(64))  # it is shown already


def test_blocks_move_as_wholes():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    moved = move_blocks(image, torch.tensor([[1, 0, 2, 3]]))
    assert moved[0, 0].tolist() == [[2, 3, 0, 1], [6, 7, 4, 5], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert torch.equal(move_blocks(image, torch.arange(4)[None]), image)


def test_what_is_salient_in_both_is_kept():
    first, second = torch.ones(4, 3, 32, 32), -torch.ones(4, 3, 32, 32)
    of_first, of_second = torch.full((4, 32, 32), 1e-3), torch.full((4, 32, 32), 1e-3)
    of_first[:, :16, :16] = 1.0
    of_second[:, 16:, 16:] = 1.0
    uniform = torch.arange(4) / 4  # every n
    mixed, share = puzzlemix(first, second, torch.full((4,), 0.6), uniform, of_first, of_second)
    assert (mixed[:, :, :16, :16] == 1).all() and (mixed[:, :, 16:, 16:] == -1).all()
    assert torch.allclose((mixed.mean((1, 2, 3)) + 1) / 2, share) and (share > 0.25).all() and (share < 0.75).all()


def test_the_share_is_near_the_wanted_one_and_the_area():
    images, weights, _ = pairs(32, 8)
    first, second = torch.ones(32, 3, 32, 32), torch.zeros(32, 3, 32, 32)
    found = []
    for coefficient in (0.6, 0.7, 0.8, 0.9, 1.0):
        wanted, uniform = torch.full((32,), coefficient), torch.arange(32) / 32
        _, share = puzzlemix(*images, wanted, uniform, *weights)
        found.append(float(share.mean()))
        assert found[-1] == pytest.approx(coefficient, abs=0.15)
        painted, share = puzzlemix(first, second, wanted, uniform, *weights)
        assert torch.allclose(painted.mean((1, 2, 3)), share)
    assert found == sorted(found) and found[-1] == 1


def test_at_a_share_of_one_the_first_image_stays():
    images, weights, _ = pairs(8, 8)
    weights = (torch.full_like(weights[0], 1e-3), torch.zeros_like(weights[1]))
    weights[1][:, :4, :4] = 1.0  # all that is salient lies in one block
    mixed, share = puzzlemix(*images, torch.ones(8), torch.arange(8) / 8, *weights)
    assert torch.equal(mixed, images[0]) and share.tolist() == [1.0] * 8


def test_a_pair_does_not_depend_on_its_batch():
    images, weights, _ = pairs(8, 8)
    wanted, uniform = torch.linspace(0.6, 0.95, 8), torch.arange(8) / 8
    whole, share = puzzlemix(*images, wanted, uniform, *weights)
    assert 0 < float(share.min()) < 0.9
    for row in range(8):
        one = slice(row, row + 1)
        mixed, alone = puzzlemix(*images[:, one], wanted[one], uniform[one], *weights[:, one])
        assert torch.equal(mixed, whole[one]) and torch.equal(alone, share[one])


def test_images_that_cannot_be_cut():
    assert block_counts(224, 224) == list(BLOCKS) and block_counts(36, 20) == [2, 4]
    with pytest.raises(ValueError, match="equal blocks, found 15 x 32 pixels: resize them to even sides"):
        puzzlemix(*torch.zeros(2, 1, 3, 15, 32), torch.ones(1), torch.zeros(1), *torch.ones(2, 1, 15, 32))

"""Class pairs follow P, samples are uniform in their class, reused ones are of the right class."""

import resource
import sys
import time

import numpy as np
import pytest
import torch
from frequencies import LABELS, P, chi_square, count_cells

from selmix_hf.method.draws import ClassIndex, draw_class_pairs, largest_repeat, reuse_samples

# --- class pairs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_classes", [3, 40])
def test_frequencies_match_p(num_classes, dtype):
    if num_classes == 3:
        p = P
    else:
        p = torch.rand(num_classes, num_classes, generator=torch.Generator().manual_seed(0)) ** 3
        p[p < 0.2] = 0
        p[5], p[:, 7] = 0, 0
        p /= p.sum()
    pairs = draw_class_pairs(p.to(dtype), 400_000, np.random.default_rng(0))
    assert pairs.dtype == np.int64 and pairs.shape == (400_000, 2)
    counts = count_cells(pairs, num_classes)
    statistic, limit = chi_square(counts, 400_000 * p.double().flatten().numpy())
    assert statistic < limit
    # the same counts refute a transposed P and an even one, so the test can fail
    for wrong in (np.where(p.T > 0, p.T, 1e-9).ravel(), np.full(num_classes**2, 1 / num_classes**2)):
        statistic, limit = chi_square(counts, 400_000 * wrong)
        assert statistic > 10 * limit


def test_zero_probability_pairs_are_never_drawn():
    """A single positive cell, wherever it lies, gets every draw; also by the extreme uniforms."""

    class Extremes:
        def random(self, shape):
            largest = np.nextafter(1.0, 0.0)
            return np.resize([0.0, largest, 0.5, 1e-300, largest], shape)

    for cell in range(9):
        p = torch.zeros(9)
        p[cell] = 1
        for generator in (np.random.default_rng(0), Extremes()):
            pairs = draw_class_pairs(p.view(3, 3), 1001, generator)
            assert (pairs == divmod(cell, 3)).all()
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(600, 600, generator=generator) * (torch.rand(600, 600, generator=generator) < 0.01)
    for source in (np.random.default_rng(0), Extremes()):
        pairs = draw_class_pairs(p / p.sum(), 20_000, source)
        assert bool((p[pairs[:, 0], pairs[:, 1]] > 0).all())


def test_more_rows_than_one_block_of_the_table():
    """Rows are handled 512 at a time; each draw keeps its own row's column."""
    num_classes = 1300
    columns = torch.randperm(num_classes, generator=torch.Generator().manual_seed(0))
    p = torch.zeros(num_classes, num_classes)
    p[torch.arange(num_classes), columns] = 1 / num_classes
    pairs = draw_class_pairs(p, 50_000, np.random.default_rng(0))
    assert len(np.unique(pairs[:, 0])) == num_classes
    assert (columns.numpy()[pairs[:, 0]] == pairs[:, 1]).all()


def test_no_pairs():
    assert draw_class_pairs(P, 0, np.random.default_rng(0)).shape == (0, 2)


def test_five_thousand_classes():
    """25 million pairs, beyond the 2^24 categories of torch.multinomial, in seconds and a few times P's 100 MB."""
    num_classes = 5000
    p = torch.zeros(num_classes, num_classes)
    p[1234] = 0.5 / num_classes
    p[-1, -1] = 0.25
    p[:, 7] += 0.25 / num_classes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    pairs = draw_class_pairs(p, 20_000, np.random.default_rng(0))
    assert time.perf_counter() - start < 20
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert extra < 400e6
    # a row of all columns, one cell, and a column of all rows
    for share, expected in (
        ((pairs[:, 0] == 1234).mean(), 0.5),
        ((pairs == num_classes - 1).all(1).mean(), 0.25),
        ((pairs[:, 1] == 7).mean(), 0.25),
    ):
        assert share == pytest.approx(expected, abs=0.015)
    row = pairs[pairs[:, 0] == 1234, 1]
    assert len(np.unique(row)) > 0.8 * num_classes
    with pytest.raises(RuntimeError, match="2\\^24"):
        torch.multinomial(torch.ones(num_classes**2), 1)


def test_a_draw_at_ten_thousand_classes():
    """More cells than the 2^24 that torch.multinomial takes; the cells with mass lie behind them too."""
    num_classes = 10_000
    probability = torch.zeros(num_classes, num_classes)
    probability[0, 9_999], probability[9_998, 3], probability[9_999, 9_999] = 0.5, 0.3, 0.2
    pairs = draw_class_pairs(probability, 1000, np.random.default_rng(0))
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    assert cells.tolist() == [[0, 9_999], [9_998, 3], [9_999, 9_999]]
    assert counts / 1000 == pytest.approx([0.5, 0.3, 0.2], abs=0.06)


# --- samples of a class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_class_index_is_uniform_within_the_class(kind):
    index = ClassIndex(kind(LABELS), 3)
    assert index.counts.tolist() == [4, 2, 1]
    drawn = index.draw(np.repeat([0, 1, 2], 20_000), np.random.default_rng(0)).reshape(3, -1)
    for k, members in enumerate(([0, 2, 5, 6], [1, 4], [3])):
        counts = np.bincount(drawn[k], minlength=7)
        expected = np.zeros(7)
        expected[members] = 20_000 / len(members)
        statistic, limit = chi_square(counts, expected)
        assert statistic <= limit


def test_class_index_keeps_the_order_of_the_classes():
    index = ClassIndex(LABELS, 3)
    classes = np.random.default_rng(1).integers(3, size=1000)
    assert (np.array(LABELS)[index.draw(classes, np.random.default_rng(0))] == classes).all()


def test_a_class_without_samples_cannot_be_drawn():
    index = ClassIndex(LABELS, 5)
    assert index.counts.tolist() == [4, 2, 1, 0, 0]
    with pytest.raises(ValueError, match="class 3 was drawn but has no sample"):
        index.draw(np.array([0, 3, 4]), np.random.default_rng(0))


@pytest.mark.parametrize("labels", [[0, 3], [0, -2]])
def test_labels_out_of_range(labels):
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, found"):
        ClassIndex(labels, 3)


# --- a sample in two pairs ---------------------------------------------------------------------------------------


def test_reused_samples_are_of_the_right_class_and_serve_once():
    classes = np.random.default_rng(0).integers(0, 5, (200, 2))
    taken = reuse_samples(classes, 32)
    pairs = np.flatnonzero(taken >= 0)
    assert len(pairs) > 100 and len(set(taken[pairs])) == len(pairs)
    assert (taken[pairs] != pairs).all() and (taken[pairs] // 32 == pairs // 32).all()
    assert (classes[taken[pairs], 0] == classes[pairs, 1]).all()
    assert reuse_samples(np.array([[0, 0], [1, 2]]), 2).tolist() == [-1, -1]
    assert reuse_samples(np.array([[0, 1], [1, 0]]), 2).tolist() == [1, 0]
    assert reuse_samples(np.array([[0, 1], [1, 0]]), 1).tolist() == [-1, -1]


def test_the_largest_repeat_by_hand():
    """Of eight pairs class 0 gives three and two samples, class 1 five and six."""
    p = torch.tensor([[0.125, 0.25], [0.125, 0.5]])
    assert largest_repeat(p, np.array([2, 10]), 8) == pytest.approx((3 + 2) / 2)
    assert largest_repeat(p, np.array([20, 10]), 8) == pytest.approx((5 + 6) / 10)
    # two sets: each side by its own sizes; a class without samples counts as one
    assert largest_repeat(p, np.array([2, 10]), 8, np.array([8, 3])) == pytest.approx(6 / 3)
    assert largest_repeat(p, np.array([2, 10]), 8, np.array([0, 6])) == pytest.approx(2)


def test_samples_that_are_not_used_are_never_drawn():
    index = ClassIndex([-1, 1, 0, -1, 1], 3)
    assert index.counts.tolist() == [1, 2, 0]
    drawn = index.draw(np.array([0, 1] * 50), np.random.default_rng(0))
    assert set(drawn[::2]) == {2} and set(drawn[1::2]) == {1, 4}
    with pytest.raises(ValueError, match="class 2 was drawn but has no sample"):
        index.draw(np.array([2]), np.random.default_rng(0))

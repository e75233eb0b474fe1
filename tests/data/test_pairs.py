"""Pairs follow P, come from (seed, period) alone, and travel through a DataLoader unchanged."""

import random

import datasets
import numpy as np
import pytest
import torch
from frequencies import LABELS, P, chi_square, count_cells
from torch.utils.data import DataLoader

from selmix_hf.data.pairs import Pair, PairDataset, PairExample, PairSampler
from selmix_hf.method.draws import ClassIndex


def make_sampler(period=0, seed=0, num_pairs=200, probability=P, **options):
    index = ClassIndex(LABELS, 3)
    return PairSampler(index, index, lambda: probability, num_pairs, lambda: period, seed=seed, **options)


# --- the period's pairs ------------------------------------------------------------------------------------------


def test_pairs_are_of_the_drawn_classes_with_coefficients_in_range():
    labels = np.array(LABELS)
    pairs = list(make_sampler(num_pairs=50_000, beta_min=0.7))
    assert all(isinstance(pair, Pair) for pair in pairs[:10])
    columns = [np.array(column) for column in zip(*pairs, strict=True)]
    counts = count_cells(np.stack([labels[columns[0]], labels[columns[1]]], 1), 3)
    statistic, limit = chi_square(counts, 50_000 * P.double().flatten().numpy())
    assert statistic < limit
    coefficient = columns[2]
    assert 0.7 <= coefficient.min() < 0.701 and 0.999 < coefficient.max() <= 1
    deciles = np.bincount(((coefficient - 0.7) / 0.03).astype(int).clip(0, 9), minlength=10)
    statistic, limit = chi_square(deciles, np.full(10, 5_000.0))
    assert statistic < limit
    assert len(set(columns[3]) | set(columns[4])) > 99_000  # a seed of its own for each sample
    assert all(type(value) in (int, float) for value in pairs[0])


@pytest.mark.parametrize("beta_min", [-1, 2])
def test_a_coefficient_that_cannot_be_is_refused(beta_min):
    with pytest.raises(ValueError, match=r"beta_min must lie in \[0, 1\], found"):
        make_sampler(beta_min=beta_min)


@pytest.mark.parametrize("beta_min", [0.0, 1.0])
def test_edges_of_the_coefficient(beta_min):
    coefficients = [pair.coefficient for pair in make_sampler(beta_min=beta_min)]
    assert beta_min <= min(coefficients) and max(coefficients) <= 1


def test_one_sample_in_a_class_is_mixed_with_itself():
    p = torch.zeros(3, 3)
    p[2, 2] = 1
    assert {(pair.first, pair.second) for pair in make_sampler(probability=p)} == {(3, 3)}


def test_draws_depend_on_seed_and_period_alone():
    reference = list(make_sampler(period=2, seed=5))
    assert list(make_sampler(period=2, seed=5)) == reference
    sampler = make_sampler(period=2, seed=5)
    assert list(sampler) == reference and list(sampler) == reference  # iterating changes nothing
    others = [list(make_sampler(period, seed)) for period, seed in ((3, 5), (2, 6), (5, 2), (0, 0))]
    for one in [reference, *others]:
        assert sum(one == other for other in [reference, *others]) == 1
    assert sum(a == b for a, b in zip(reference, others[0], strict=True)) == 0


def test_period_and_p_are_read_when_an_iteration_begins():
    state = {"period": 0, "p": P}
    index = ClassIndex(LABELS, 3)
    sampler = PairSampler(index, index, lambda: state["p"], 100, lambda: state["period"])
    assert len(sampler) == 100
    first = list(sampler)
    state["period"] = 1
    assert list(sampler) != first
    state.update(period=0, p=P.T)
    assert list(sampler) != first
    state["p"] = P
    assert list(sampler) == first


def test_epochs_of_ones_own_loader_differ_without_a_period():
    index = ClassIndex(LABELS, 3)

    def epochs():
        sampler = PairSampler(index, index, lambda: P, 100, seed=5)
        loader = DataLoader(PairDataset(LABELS), batch_size=10, sampler=sampler, collate_fn=list)
        return [[example.pair for batch in loader for example in batch] for _ in range(3)]

    first = epochs()
    assert first == epochs()
    assert first == [list(make_sampler(period, seed=5, num_pairs=100)) for period in range(3)]
    assert all(first[i] != first[j] for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("beta_min", [0.0, 0.6, 0.95, 1.0])
def test_coefficients_lie_above_beta_min(beta_min):
    coefficients = np.array([pair.coefficient for pair in make_sampler(num_pairs=2000, beta_min=beta_min)])
    assert beta_min <= coefficients.min() <= coefficients.max() <= 1
    assert coefficients.min() == pytest.approx(beta_min, abs=0.01)
    assert coefficients.mean() == pytest.approx((beta_min + 1) / 2, abs=0.02)


def global_states():
    _name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), keys.tolist(), rest, random.getstate()


def test_the_global_random_state_is_neither_read_nor_written():
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        before = global_states()
        drawn.append(list(make_sampler()))
        assert global_states() == before
    assert drawn[0] == drawn[1]


def test_two_sets_have_their_own_indices():
    first, second = ClassIndex([0, 1, 2], 3), ClassIndex([2, 2, 1, 0, 1, 0], 3)
    labels = np.array([2, 2, 1, 0, 1, 0])
    pairs = list(PairSampler(first, second, lambda: P, 2000))
    cells = np.array([(pair.first, labels[pair.second]) for pair in pairs])
    assert set(map(tuple, cells.tolist())) == set(map(tuple, torch.nonzero(P).tolist()))
    assert {pair.second for pair in pairs} == set(range(6))


def test_a_drawn_class_missing_from_the_second_set():
    with pytest.raises(ValueError, match="class 2 was drawn but has no sample"):
        list(PairSampler(ClassIndex(LABELS, 3), ClassIndex([0, 1], 3), lambda: P, 500))


# --- datasets and loaders ----------------------------------------------------------------------------------------


def test_pair_dataset_of_a_list_and_a_second_set():
    pair = Pair(2, 0, 0.75, 11, 12)
    one = PairDataset(["a", "b", "c"])
    assert len(one) == 3 and one[pair] == PairExample("c", "a", pair)
    two = PairDataset(["a", "b", "c"], ["x"])
    assert len(two) == 3 and two[pair] == PairExample("c", "x", pair)
    assert two.__getitems__([pair, Pair(0, 0, 1.0, 1, 2)])[1].first == "a"
    # an empty second set is a set: nothing is taken from the first instead
    with pytest.raises(IndexError):
        PairDataset(["a"], [])[Pair(0, 0, 1.0, 1, 2)]


def make_dataset():
    return datasets.Dataset.from_dict({"value": [10 * i for i in range(7)], "label": LABELS})


def test_pair_dataset_of_a_datasets_dataset():
    pairs = [Pair(6, 3, 0.7, 1, 2), Pair(0, 0, 0.8, 3, 4), Pair(6, 1, 0.9, 5, 6)]
    examples = PairDataset(make_dataset(), make_dataset().select([5, 4, 3, 2])).__getitems__(pairs)
    assert [(e.first["value"], e.second["value"]) for e in examples] == [(60, 20), (0, 50), (60, 40)]
    assert [e.pair for e in examples] == pairs
    assert PairDataset(make_dataset())[pairs[0]].first == {"value": 60, "label": 0}


class Augmented:
    """Samples that a random transform changes, by each of the global generators."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, i):
        return i, random.random(), np.random.rand(), torch.rand(()).item()


def test_a_random_transform_depends_on_the_pairs_alone():
    pairs = list(make_sampler(num_pairs=20))
    before = global_states()
    read = PairDataset(Augmented()).__getitems__(pairs)
    assert global_states() == before
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    assert PairDataset(Augmented()).__getitems__(pairs) == read
    assert len({sample[1:] for example in read for sample in example[:2]}) == 40
    other = PairDataset(Augmented()).__getitems__(list(make_sampler(period=1, num_pairs=20)))
    assert other[0].first[1:] != read[0].first[1:]


def as_is(examples):
    return examples


def test_random_transforms_are_the_same_in_workers():
    def read(workers):
        sampler = make_sampler(num_pairs=24)
        return list(DataLoader(PairDataset(Augmented()), 8, sampler=sampler, num_workers=workers, collate_fn=as_is))

    assert read(2) == read(0)


def test_a_loader_gives_the_same_pairs_with_and_without_workers():
    sampler = make_sampler(num_pairs=50)
    read = []
    for num_workers in (0, 2):
        loader = DataLoader(
            PairDataset(make_dataset()), batch_size=8, sampler=sampler, num_workers=num_workers, collate_fn=as_is
        )
        batches = list(loader)
        assert [len(batch) for batch in batches] == [8] * 6 + [2] == [len(batch) for batch in batches]
        read.append([example for batch in batches for example in batch])
    assert read[0] == read[1]
    assert [example.pair for example in read[0]] == list(sampler)
    for example in read[1]:
        assert example.first["value"] == 10 * example.pair.first
        assert example.second["value"] == 10 * example.pair.second


# --- a sample in two pairs ---------------------------------------------------------------------------------------


def test_reuse_leaves_the_samples_of_a_pair_uniform_and_independent():
    """chi-squared over the sixteen combinations of two classes with four samples each, among the pairs that reuse."""
    index = ClassIndex([0] * 4 + [1] * 4, 2)
    probability = torch.tensor([[0.1, 0.4], [0.4, 0.1]])
    sampler = PairSampler(index, index, lambda: probability, num_pairs=64_000, seed=1, reuse_within=8)
    first, second, _, first_seeds, second_seeds, _ = sampler.draw()
    reused = np.isin(second_seeds, first_seeds)
    assert 0.5 < reused.mean() < 1
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        of_classes = reused & (first // 4 == a) & (second // 4 == b)
        counts = np.bincount(first[of_classes] % 4 * 4 + second[of_classes] % 4, minlength=16)
        expected = counts.sum() / 16
        assert ((counts - expected) ** 2 / expected).sum() < 37.7  # one in a thousand, 15 degrees of freedom
    plain = PairSampler(index, index, lambda: probability, num_pairs=64_000, seed=1).draw()
    assert (plain[0] == first).all() and (plain[1][~reused] == second[~reused]).all()

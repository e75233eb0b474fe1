"""Shares by hand, draws that follow them, the same over any number of processes, and what is refused."""

import random

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader

from selmix_hf import WeightedSampler, sampling_weights
from selmix_hf.data.seeded import DrawnSamples
from selmix_hf.data.weighted import class_shares, identity, in_words

LABELS = np.repeat([0, 1, 2], [16, 4, 1])
COUNTS = (16, 4, 1, 0)  # a fourth class has no samples


# --- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        ("natural", [16 / 21, 4 / 21, 1 / 21, 0]),
        ("square_root", [4 / 7, 2 / 7, 1 / 7, 0]),
        ("class_balanced", [1 / 3, 1 / 3, 1 / 3, 0]),
        (1, [16 / 21, 4 / 21, 1 / 21, 0]),
        ("0.5", [4 / 7, 2 / 7, 1 / 7, 0]),
        (0, [1 / 3, 1 / 3, 1 / 3, 0]),
        (0.25, np.array([2, 2**0.5, 1, 0]) / (3 + 2**0.5)),
        ([1, 0, 3, 0], [1 / 4, 0, 3 / 4, 0]),
        ("[1, 0, 3, 0]", [1 / 4, 0, 3 / 4, 0]),
        (np.array([1, 1, 2, 0]), [1 / 4, 1 / 4, 1 / 2, 0]),
        (torch.tensor([1.0, 1.0, 2.0, 0.0]), [1 / 4, 1 / 4, 1 / 2, 0]),
    ],
    ids=str,
)
def test_shares_of_classes_by_hand(sampling, shares):
    np.testing.assert_allclose(class_shares(sampling, COUNTS), shares, rtol=1e-14)


def test_a_share_is_spread_evenly_over_the_class():
    labels = [2, 0, 0, 2, 1, 2]
    expected = [1 / 9, 1 / 6, 1 / 6, 1 / 9, 1 / 3, 1 / 9]
    np.testing.assert_allclose(sampling_weights("class_balanced", labels), expected)
    np.testing.assert_allclose(sampling_weights("natural", labels, 5), np.full(6, 1 / 6))
    np.testing.assert_allclose(sampling_weights([0, 2, 6], labels), np.array([2, 0, 0, 2, 2, 2]) / 8)
    own = [3.0, 0, 0, 1, 0, 0]
    assert sampling_weights("class_balanced", labels, sample_weights=own).tolist() == own


def test_what_a_resumed_run_must_share():
    assert identity(None) == "pairs" and identity("square_root") == "square_root"
    first, second = identity([1.0, 2.0]), identity([2.0, 1.0])
    assert first.startswith("class weights ") and first != second and first == identity([1.0, 2.0])
    own = identity("sample_weights", np.array([1.0, 2.0]))
    assert own.startswith("sample_weights ") and own.split()[1] == first.split()[2]
    assert in_words([1.0]) == "classes by given weights" and "power 0.3" in in_words("0.3")


# --- draws -------------------------------------------------------------------------------------------------------


def chi_square(drawn, weights):
    """Statistic over what may be drawn, and what it may reach: five standard deviations above its mean."""
    counts, share = np.bincount(drawn, minlength=len(weights)), np.asarray(weights) / np.sum(weights)
    may = share > 0
    assert not counts[~may].any()
    expected, freedom = len(drawn) * share[may], may.sum() - 1
    return ((counts[may] - expected) ** 2 / expected).sum(), freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("sampling", ["natural", "square_root", "class_balanced", [1, 5, 0]], ids=str)
def test_draws_follow_the_weights(sampling):
    weights = sampling_weights(sampling, LABELS)
    index, _ = WeightedSampler(weights, 100_000).draw()
    statistic, limit = chi_square(index, weights)
    assert statistic < limit
    statistic, limit = chi_square(LABELS[index], class_shares(sampling, COUNTS[:3]))
    assert statistic < limit
    for other in ("natural", "square_root", "class_balanced"):  # the same draws refute the others
        if other != sampling:
            statistic, limit = chi_square(index, sampling_weights(other, LABELS))
            assert statistic > 10 * limit


def test_samples_follow_weights_of_their_own():
    weights = np.random.default_rng(1).random(50) ** 3
    index, seeds = WeightedSampler(1e-200 * weights, 100_000, seed=3).draw()
    statistic, limit = chi_square(index, weights)
    assert statistic < limit and len(np.unique(seeds)) > 99_000


def test_a_weight_of_zero_is_never_drawn(monkeypatch):
    """Also by the extreme uniforms, wherever the only sample with a weight lies."""

    class Extremes:
        def random(self, size):
            return np.resize([0.0, np.nextafter(1.0, 0.0), 0.5, 1e-300], size)

        def integers(self, high, size):
            return np.zeros(size, np.int64)

    for generator in (np.random.default_rng(0), Extremes()):
        monkeypatch.setattr(np.random, "default_rng", lambda seed, generator=generator: generator)
        for place in range(5):
            weights = np.zeros(5)
            weights[place] = 0.1
            assert set(WeightedSampler(weights, 999)) == {place}
        assert set(WeightedSampler([0, 0.1, 0, 0.2, 0.7, 0, 0], 999)) <= {1, 3, 4}


def test_draws_come_from_seed_and_epoch_alone():
    def drawn(epoch=0, seed=0, **options):
        return list(WeightedSampler(sampling_weights("class_balanced", LABELS), 30, lambda: epoch, seed, **options))

    first = drawn()
    torch.manual_seed(5)
    np.random.seed(5)
    assert drawn() == first and drawn(epoch=1) != first and drawn(seed=1) != first
    with_seeds = drawn(with_seeds=True)
    assert [index for index, _ in with_seeds] == first and len({seed for _, seed in with_seeds}) == 30
    sampler = WeightedSampler(np.ones(21))
    assert len(sampler) == 21 and [list(sampler), list(sampler)] != [list(sampler)] * 2  # a new epoch an iteration


def test_the_global_random_state_is_let_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    list(WeightedSampler(np.ones(5), with_seeds=True))
    assert states() == before


# --- any number of processes -------------------------------------------------------------------------------------

GLOBAL_BATCH, STEPS = 24, 5


def make_sampler():
    return WeightedSampler(sampling_weights("square_root", LABELS), GLOBAL_BATCH * STEPS, lambda: 7, with_seeds=True)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_a_step_over_all_processes_is_that_of_one(processes, accumulation):
    """Nothing is drawn twice, left out or filled up: the parts laid side by side are the whole sequence."""
    batch = GLOBAL_BATCH // processes // accumulation
    shards = [
        list(BatchSamplerShard(BatchSampler(make_sampler(), batch, drop_last=False), processes, rank))
        for rank in range(processes)
    ]
    assert [len(shard) for shard in shards] == [STEPS * accumulation] * processes
    whole = list(make_sampler())
    for step in range(STEPS):
        micro = range(step * accumulation, (step + 1) * accumulation)
        union = [draw for number in micro for shard in shards for draw in shard[number]]
        assert union == whole[step * GLOBAL_BATCH : (step + 1) * GLOBAL_BATCH]


def test_a_loader_that_accelerate_prepares():
    """As in a loop of one's own, with three processes and workers."""
    images = torch.arange(len(LABELS))

    def loader(batch):
        sampler = make_sampler()
        return DataLoader(DrawnSamples(images), batch, sampler=sampler, num_workers=1, collate_fn=seen)

    def prepared(rank):
        return prepare_data_loader(loader(8), num_processes=3, process_index=rank, put_on_device=False)

    parts = [list(prepared(rank)) for rank in range(3)]
    whole = list(loader(GLOBAL_BATCH))
    assert [sum(step, []) for step in zip(*parts, strict=True)] == whole and len(whole) == STEPS


def seen(examples):
    return [(int(example.sample), example.seed) for example in examples]


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ("balanced", "sampling must be one of natural, square_root, class_balanced, a power .*, found 'balanced'"),
        ("1.5", "a power between 0 and 1, or K class weights, found '1.5'"),
        (-0.5, "a power between 0 and 1, or K class weights, found -0.5"),
        (float("nan"), "a power between 0 and 1, .* found nan"),
        (True, "sampling must hold a number a class, none negative and one positive at least, found True"),
        ({"a": 1}, "sampling must hold a number a class"),
        ([], r"sampling must hold a number a class, .* found \[\] of shape \[0\]"),
        ([[1, 2]], r"found \[\[1, 2\]\] of shape \[1, 2\]"),
        (["a", "b"], r"sampling must hold a number a class, .*, found \['a', 'b'\]"),
        ("[1, ", r"sampling must be JSON such as '\[1, 1, 2\]', found '\[1, '"),
        ([1, -2, 1, 0], "found -2.0 for class 1"),
        ([1, float("nan"), 1, 0], "found nan for class 1"),
        ([1, float("inf"), 1, 0], "found inf for class 1"),
        ([0, 0, 0, 0], "one positive at least, found zeros alone"),
        ([1, 1, 1], "sampling must have one weight a class, 4, found 3: weights of samples are another argument"),
        (
            [1, 1, 1, 2],
            "sampling gives class 3 the weight 2, but it has no training samples: set it to 0, or add some",
        ),
    ],
    ids=str,
)
def test_bad_shares_get_a_sentence(sampling, sentence):
    with pytest.raises(ValueError, match=sentence):
        class_shares(sampling, COUNTS)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1, 2], "sample_weights must have one weight a training sample, 3, found 2: weights of classes are another"),
        ([1, 2, -1], "sample_weights must hold a number a sample, .*, found -1.0 for sample 2"),
        ([1, 2, np.nan], "found nan for sample 2"),
        ([0, 0, 0], "found zeros alone"),
        ("class_balanced", "sample_weights must hold a number a sample"),
    ],
    ids=str,
)
def test_bad_weights_get_a_sentence(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        sampling_weights("natural", [0, 0, 1], sample_weights=weights)


def test_a_sampler_without_weights_is_refused():
    with pytest.raises(ValueError, match="weights must hold a number a sample, .* found zeros alone"):
        WeightedSampler([0.0, 0.0])
    with pytest.raises(ValueError, match=r"weights must hold a number a sample, .* of shape \[0\]"):
        WeightedSampler([])

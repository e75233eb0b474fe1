"""Intervals of recalls against scipy's own and by simulation; a bound for the model that was chosen."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from selmix_hf import min_recall_interval, min_recall_lower_bound, recall_intervals, worst_share_recall_interval
from selmix_hf.method import intervals
from selmix_hf.method.minimum import worst_share_mean


def counts_of(hits, samples):
    """K x K counts with these hits; misses go to the next class."""
    return np.diag(hits) + np.roll(np.diag(np.subtract(samples, hits)), 1, 1)


@pytest.mark.parametrize(("hits", "samples"), [((7, 3), (20, 5)), ((0, 4), (6, 4)), ((1, 499), (1000, 500))])
def test_each_class_has_the_exact_interval_at_its_share_of_the_confidence(hits, samples):
    low, high = recall_intervals(counts_of(hits, samples), confidence=0.95**2)
    exact = [binomtest(h, n).proportion_ci(0.95, method="exact") for h, n in zip(hits, samples, strict=True)]
    assert low == pytest.approx([interval.low for interval in exact], abs=1e-12)
    assert high == pytest.approx([interval.high for interval in exact], abs=1e-12)


def test_one_class_and_torch():
    counts = torch.tensor([[9]])
    expected = binomtest(9, 9).proportion_ci(0.9, method="exact")
    assert [end.item() for end in recall_intervals(counts, 0.9)] == pytest.approx([expected.low, 1.0])
    assert min_recall_interval(counts, 0.9) == pytest.approx((expected.low, 1.0))


def test_no_hits_all_hits_no_samples():
    low, high = recall_intervals(counts_of([0, 10, 0], [10, 10, 0]))
    assert (low[0], high[1], low[2], high[2]) == (0, 1, 0, 1)
    assert high[0] == pytest.approx(1 - low[1]) and 0 < high[0] < 0.5
    assert min_recall_interval(counts_of([0, 10, 0], [10, 10, 0]))[0] == 0


@pytest.mark.parametrize("per_class", [20, 50])
def test_a_thousand_small_classes(per_class):
    hits = np.random.default_rng(0).binomial(per_class, 0.6, 1000)
    low, high = recall_intervals(counts_of(hits, [per_class] * 1000))
    assert np.all((0 <= low) & (low <= hits / per_class) & (hits / per_class <= high) & (high <= 1))
    worst = min_recall_interval(counts_of(hits, [per_class] * 1000))
    assert low.min() < worst[0] <= hits.min() / per_class <= worst[1]  # no correction for K below


RECALLS = {  # the worst class is any, or one that stands apart
    "equal": ([0.7] * 10, [30] * 10),
    "one is worst": ([0.3, *[0.9] * 9], [30] * 10),
    "small classes": ([0.5, 0.6, 0.9], [4, 9, 200]),
}


@pytest.mark.parametrize("case", RECALLS)
def test_coverage(case):
    """At least 95% of 4,000 draws (three standard errors are .010); the joint interval is not far too wide either."""
    truth, samples = map(np.array, RECALLS[case])
    random = np.random.default_rng(1)
    draws = [counts_of(random.binomial(samples, truth), samples) for _ in range(4000)]
    ends = [recall_intervals(counts) for counts in draws]
    joint = np.mean([np.all((low <= truth) & (truth <= high)) for low, high in ends])
    assert 0.94 <= joint <= 0.995
    of_worst = np.array([min_recall_interval(counts) for counts in draws])
    below, above = of_worst[:, 0] > truth.min(), of_worst[:, 1] < truth.min()
    assert below.mean() <= 0.03 and above.mean() <= 0.03 and (below | above).mean() <= 0.055
    if case == "one is worst":  # nothing is given away below
        assert below.mean() >= 0.01


def worst_mean(recall_K, share):
    return float(worst_share_mean(torch.as_tensor(np.asarray(recall_K, float)), share))


WORST_SHARES = {  # recalls, samples, share
    "equal": ([0.7] * 40, [10] * 40, 0.1),
    "some are worst": ([*[0.2] * 4, *[0.9] * 36], [20] * 40, 0.1),
    "unlike sizes": (np.linspace(0.05, 0.95, 30).tolist(), [3, 5, 9, *[40] * 20, *[200] * 7], 0.15),
    "small classes at the bottom": ([0.1, 0.1, 0.2, *[0.8] * 27], [4, 4, 6, *[50] * 27], 0.1),
    "half of few": ([0.3, 0.4, 0.5, 0.8, 0.9], [50] * 5, 0.5),
}


@pytest.mark.parametrize("case", WORST_SHARES)
def test_coverage_of_the_worst_share(case):
    """Either end is wrong in no more than .025 of 1,500 draws (three standard errors are .012)."""
    truth, samples, share = np.array(WORST_SHARES[case][0]), np.array(WORST_SHARES[case][1]), WORST_SHARES[case][2]
    random, right = np.random.default_rng(4), worst_mean(truth, share)
    draws = [counts_of(random.binomial(samples, truth), samples) for _ in range(1500)]
    ends = np.array([worst_share_recall_interval(counts, share) for counts in draws])
    assert (ends[:, 0] > right).mean() <= 0.037 and (ends[:, 1] < right).mean() <= 0.037
    seen = np.array([worst_mean(counts.diagonal() / samples, share) for counts in draws])
    assert np.all((ends[:, 0] <= seen) & (seen <= ends[:, 1]))


def test_the_upper_end_of_the_observed_worst_alone_would_not_hold():
    """What the correction for the choice of classes is for: 40 equal ones, of which chance makes some the worst."""
    random, samples = np.random.default_rng(5), np.full(40, 10)
    hits = random.binomial(samples, 0.7, (500, 40))
    observed = np.sort(hits, axis=1)[:, :4].mean(1) / 10
    uncorrected = np.array([intervals._largest_rate(x, -np.log(0.0125) / 40) for x in observed])
    assert (uncorrected < 0.7).mean() > 0.5


def test_the_worst_share_is_pooled_where_classes_are_alike_and_not_where_one_is_tiny():
    """The lower end of 1,000 classes is near the mean of the worst; of 30, one with 2 samples, class by class."""
    random = np.random.default_rng(6)
    hits, samples = random.binomial(50, random.beta(2, 1, 1000)), np.full(1000, 50)
    low, high = worst_share_recall_interval(counts_of(hits, samples))
    single = worst_mean(recall_intervals(counts_of(hits, samples))[0], 0.1)
    observed = worst_mean(hits / samples, 0.1)
    assert observed - low < 0.02 < observed - single and high < observed + 0.2
    samples = np.array([2, *[100] * 29])
    low, high = worst_share_recall_interval(counts_of(samples // 2, samples))
    error = 1 - (1 - 0.0125) ** (1 / 3)
    exact = [binomtest(n // 2, n, alternative="greater").proportion_ci(1 - error, "exact").low for n in (2, 100)]
    assert low == pytest.approx((exact[0] + 2 * exact[1]) / 3)


def test_the_pooled_tail_holds_for_unlike_weights():
    """P(X >= a) by enumeration of two classes, of 2 and 7 samples and weight .75 and .25: N = 2 / .75."""
    for rates in ((0.3, 0.6), (0.05, 0.9), (0.5, 0.5), (0.9, 0.1)):
        chances = [binom(n, r).pmf(np.arange(n + 1)) for n, r in zip((2, 7), rates, strict=True)]
        value = np.add.outer(0.75 * np.arange(3) / 2, 0.25 * np.arange(8) / 7).ravel()
        chance, mean = np.outer(*chances).ravel(), 0.75 * rates[0] + 0.25 * rates[1]
        for a in value[value > mean]:
            kl = a * np.log(a / mean) + (0 if a == 1 else (1 - a) * np.log((1 - a) / (1 - mean)))
            assert chance[value >= a - 1e-12].sum() <= np.exp(-2 / 0.75 * kl) + 1e-12


def test_the_largest_rate_is_where_the_divergence_is_reached():
    p = intervals._largest_rate(0.2, 0.1)
    assert 0.2 * np.log(0.2 / p) + 0.8 * np.log(0.8 / (1 - p)) == pytest.approx(0.1)
    assert intervals._largest_rate(0.0, 0.1) == pytest.approx(1 - np.exp(-0.1))
    assert intervals._largest_rate(1.0, 0.1) == 1


def test_ends_of_the_worst_share():
    counts = counts_of([3, 9, 14, 20], [20] * 4)
    for share in (0.1, 0.25):  # one class
        assert worst_share_recall_interval(counts, share) == min_recall_interval(counts)
    assert worst_share_recall_interval(torch.as_tensor(counts), 0.5) == worst_share_recall_interval(counts, 0.5)
    assert worst_share_recall_interval(counts_of([0] * 20, [5] * 20))[0] == 0
    assert worst_share_recall_interval(counts_of([5] * 20, [5] * 20))[1] == 1
    low, high = worst_share_recall_interval(counts_of([0, 0, *[5] * 18], [0, 0, *[5] * 18]))  # two without samples
    assert (low, high) == (0, 1)
    with pytest.raises(ValueError, match=r"worst_share must lie in \(0, 1\], found 0"):
        worst_share_recall_interval(counts, 0)


def test_classes_that_are_taken_one_by_one_do_not_hold_at_once():
    """What the correction is for: 95% intervals of fifty classes all hold in a minority of draws."""
    random, truth, samples = np.random.default_rng(2), np.full(50, 0.7), np.full(50, 100)
    held = {0.95: [], 0.95**50: []}  # the latter is .95 a class
    for _ in range(500):
        counts = counts_of(random.binomial(samples, truth), samples)
        for confidence, results in held.items():
            low, high = recall_intervals(counts, confidence)
            results.append(np.all((low <= truth) & (truth <= high)))
    assert np.mean(held[0.95]) >= 0.93
    assert np.mean(held[0.95**50]) < 0.5


def test_the_chosen_models_naive_bound_undercovers_and_the_bound_over_candidates_does_not():
    """100 models, all with recalls (.6, .9, .95); the one with the best worst class on 100 samples a class is kept."""
    truth, samples, candidates, draws = np.array([0.6, 0.9, 0.95]), np.full(3, 100), 100, 500
    random = np.random.default_rng(3)
    naive, bound = [], []
    for _ in range(draws):
        hits = random.binomial(samples, truth, (candidates, 3))
        chosen = counts_of(hits[hits.min(1).argmax()], samples)
        naive.append(min_recall_lower_bound(chosen) <= truth.min())
        bound.append(min_recall_lower_bound(chosen, num_candidates=candidates) <= truth.min())
    assert np.mean(naive) < 0.2
    assert np.mean(bound) >= 0.95


def test_the_bound_by_hand():
    """k = 1 is the lower bound: error (1 - .95) / 10 on 12 hits of 20."""
    counts = counts_of([19, 12], [20, 20])
    expected = binomtest(12, 20, alternative="greater").proportion_ci(0.995, method="exact").low
    assert min_recall_lower_bound(counts, num_candidates=10) == pytest.approx(expected)
    bounds = [min_recall_lower_bound(counts, num_candidates=number) for number in (1, 10, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    assert min_recall_lower_bound(counts, confidence=0.975) == pytest.approx(min_recall_interval(counts)[0])


def test_what_is_refused():
    with pytest.raises(ValueError, match="counts must be those of a confusion matrix, K x K integers.*found float64"):
        recall_intervals([[0.5, 0.5], [0.1, 0.9]])
    for function in (min_recall_interval, min_recall_lower_bound, worst_share_recall_interval):
        with pytest.raises(ValueError, match=r"found int64 of shape \(2, 2\) with -1"):
            function([[4, -1], [0, 3]])
    with pytest.raises(ValueError, match=r"found int64 of shape \(2, 3\)"):
        min_recall_interval(np.ones((2, 3), int))
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, found 95"):
        recall_intervals(np.eye(2, dtype=int), confidence=95)
    with pytest.raises(ValueError, match="num_candidates counts the models to choose from, at least 1; found 0"):
        min_recall_lower_bound(np.eye(2, dtype=int), num_candidates=0)


def test_classes_without_samples_are_unknown_left_out_or_refused():
    """Three classes of which the last has none, against the two others alone."""
    absent, present = [[7, 3, 1], [2, 5, 0], [0, 0, 0]], [[7, 4], [2, 5]]
    for left_out, alone in zip(recall_intervals(absent, absent="leave out"), recall_intervals(present), strict=True):
        assert left_out == pytest.approx(alone)
    for function in (min_recall_interval, min_recall_lower_bound):
        assert function(absent, absent="leave out") == pytest.approx(function(present))
    assert min_recall_interval(absent)[0] == 0 < min_recall_interval(present)[0]
    share = worst_share_recall_interval(absent, 0.8, absent="leave out")
    assert share == pytest.approx(worst_share_recall_interval(present, 0.8))
    with pytest.raises(ValueError, match="no sample of 1 of 3 classes: 2.*absent='leave out'"):
        min_recall_interval(absent, absent="refuse")

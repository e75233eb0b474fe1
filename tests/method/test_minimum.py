"""The mean of the worst share against linear programs and by hand, and its multipliers against slow forms."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from selmix_hf import get_objective
from selmix_hf.method.gain import metric_gradient
from selmix_hf.method.minimum import MinimumMetric, capped_softmax, worst_number, worst_share_mean, worst_share_title

RECALLS = torch.tensor([0.6, 0.0, 0.8, 0.2, 0.4], dtype=torch.float64)
COUNTS = torch.tensor([20] * 5)


def of(recall_K, **options):
    """A capped minimum whose components are these, whatever the matrix."""
    return MinimumMetric("m", lambda confusion: torch.as_tensor(recall_K, dtype=torch.float64), **options)


# --- the mean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.1, 0.0),  # half a class: the worst
        (0.2, 0.0),
        (0.3, 0.5 * 0.2 / 1.5),
        (0.4, 0.1),
        (0.5, (0.0 + 0.2 + 0.5 * 0.4) / 2.5),
        (1.0, 0.4),
    ],
)
def test_the_mean_of_the_worst_by_hand(share, expected):
    assert float(worst_share_mean(RECALLS, share)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_least_that_capped_weights_make_of_the_values(seed):
    random = np.random.default_rng(seed)
    values, share = random.random(random.integers(2, 12)), random.uniform(0.05, 1)
    cap = min(1, 1 / (share * len(values)))
    least = linprog(values, A_eq=np.ones((1, len(values))), b_eq=[1], bounds=(0, cap)).fun
    assert float(worst_share_mean(torch.from_numpy(values), share)) == pytest.approx(least, abs=1e-9)


def test_a_number_that_only_rounding_breaks_is_whole():
    assert 0.07 * 100 > 7 > 0.29 * 100 - 22 and worst_number(0.07, 100) == 7 == worst_number(0.29, 100) - 22
    assert worst_number(0.1, 57) == pytest.approx(5.7)
    assert float(worst_share_mean(torch.arange(5.0).double(), 0.6)) == 1


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.1, "tenth"),
        (0.05, "twentieth"),
        (1 / 3, "third"),
        (0.5, "half"),
        (0.15, "15%"),
        (0.33, "33%"),
        (0.001, "0.1%"),
    ],
)
def test_the_title_follows_the_share(share, words):
    assert worst_share_title(share) == f"mean recall of the worst {words}"


# --- the projection ----------------------------------------------------------------------------------------------


def slowly_capped(weights, cap):
    """Cap what exceeds, rescale the rest, repeat until nothing exceeds."""
    result, held = weights / weights.sum(), np.zeros(len(weights), bool)
    while (result > cap * (1 + 1e-12)).any():
        held |= result > cap
        result = np.where(held, cap, result)
        result[~held] *= (1 - cap * held.sum()) / result[~held].sum()
    return result


@pytest.mark.parametrize("seed", range(30))
def test_the_projection_is_that_of_capping_and_rescaling(seed):
    random = np.random.default_rng(seed)
    log_weights = random.normal(0, random.choice([0.1, 1, 5]), random.integers(2, 40))
    cap = min(1, 1 / (random.uniform(0.05, 1) * len(log_weights)))
    got = capped_softmax(torch.from_numpy(log_weights), cap).numpy()
    assert got == pytest.approx(slowly_capped(np.exp(log_weights), cap), abs=1e-9)
    assert got.sum() == pytest.approx(1) and got.max() <= cap


def test_the_projection_is_the_nearest_in_relative_entropy():
    log_weights, cap = np.log([0.5, 0.3, 0.1, 0.07, 0.03]), 0.3
    nearest = minimize(
        lambda p: float((p * (np.log(p) - log_weights)).sum()),
        np.full(5, 0.2),
        bounds=[(1e-9, cap)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert capped_softmax(torch.from_numpy(log_weights), cap).numpy() == pytest.approx(nearest.x, abs=1e-5)


def test_the_projection_of_extremes():
    assert capped_softmax(torch.tensor([3.0, -900.0, 900.0, 0.0]).double(), 0.25).tolist() == pytest.approx([0.25] * 4)
    # two of four at the cap of a half: what is left for the others is nothing, but for rounding
    steep = capped_softmax(torch.tensor([0.0, -2000.0, -1000.0, -3000.0]).double(), 0.5)
    assert steep.tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0]) and bool(steep.isfinite().all())
    assert capped_softmax(torch.zeros(10).double(), 0.5).tolist() == pytest.approx([0.1] * 10)


# --- the multipliers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_no_more_than_one_class_is_the_minimum_bit_for_bit(share):
    plain, capped = of(RECALLS), of(RECALLS, share=share)
    multiplier = plain.initial_multiplier(5)
    assert torch.equal(multiplier, capped.initial_multiplier(5))
    assert torch.equal(plain.value(None), capped.value(None))
    for _ in range(3):
        after = capped.update_multiplier(multiplier, None, COUNTS)
        multiplier = plain.update_multiplier(multiplier, None, COUNTS)
        assert torch.equal(multiplier, after)
        assert torch.equal(plain.lagrangian(None, multiplier), capped.lagrangian(None, multiplier))


def test_multipliers_by_hand():
    """Weights 8 : 4 : 2 : 2 with no memory; 2.5 of four classes, cap .4: the others share .6 as 2 : 1 : 1."""
    recall = torch.tensor([0, 1, 2, 2]).double() * math.log(2) / 2
    got = of(recall, rate=2.0, memory=0.0, share=0.625).update_multiplier(None, None, COUNTS)
    assert got.tolist() == pytest.approx([0.4, 0.3, 0.15, 0.15])


def test_the_multipliers_of_a_steep_rate_make_the_lagrangian_the_mean_of_the_worst():
    metric = of(RECALLS, rate=1e4, memory=0.0, share=0.5)
    multiplier = metric.update_multiplier(None, None, torch.tensor([10**6] * 5))
    assert multiplier.tolist() == pytest.approx([0, 0.4, 0, 0.4, 0.2])
    assert float(metric.lagrangian(None, multiplier)) == pytest.approx(float(metric.value(None)))


def test_memory_leads_to_the_projection_of_the_memoryless_form():
    metric = of(RECALLS, rate=6.0, memory=0.5, share=0.5)
    multiplier = metric.initial_multiplier(5)
    for _ in range(60):
        multiplier = metric.update_multiplier(multiplier, None, COUNTS)
    assert torch.allclose(multiplier, capped_softmax(-6.0 * RECALLS, 0.4), rtol=1e-6)
    assert float(multiplier.max()) == pytest.approx(0.4) and float(torch.softmax(-6.0 * RECALLS, 0).max()) > 0.5


def test_what_stood_above_the_cap_is_not_remembered():
    """All recalls alike again: log ratios are half of those of the projected multipliers."""
    before = of(RECALLS, rate=6.0, memory=0.5, share=0.5).update_multiplier(None, None, COUNTS)
    after = of([0.5] * 5, rate=6.0, memory=0.5, share=0.5).update_multiplier(before, None, COUNTS)
    ratio, before_ratio = ((m[1] / m[2]).log() for m in (after, before))
    assert float(before[1]) == pytest.approx(0.4) and float(ratio) == pytest.approx(float(before_ratio) / 2)


# --- the gradient ------------------------------------------------------------------------------------------------


def test_more_than_the_worst_class_steers():
    """At a steep rate the two worst of five alone, the one without a hit with a finite gradient."""
    metric = get_objective("worst_share_recall", worst_share=0.4, min_rate=1e4, min_memory=0.0)
    counts = torch.diag(torch.tensor([0, 1000, 6000, 8000, 9000])) + torch.ones(5, 5, dtype=torch.long)
    counts += torch.diag(10_000 - counts.sum(1)).roll(1, 1)
    multipliers = metric.update_multipliers({}, counts)
    assert multipliers["worst_share_recall"].tolist() == pytest.approx([0.5, 0.5, 0, 0, 0], abs=1e-6)
    gradient = metric_gradient(metric, counts, multipliers=multipliers)
    assert bool(gradient.isfinite().all()) and (gradient.diagonal() > 1e-6).tolist() == [True] * 2 + [False] * 3

"""From gains to P: masks, temperature and options."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix_hf.method.pair_distribution import effective_number, pair_distribution

GAIN = torch.tensor([[3.0, -1.0, 0.0], [2.0, 1.0, -5.0], [-2.0, 3.0, 1.0]])
POSITIVE = GAIN > 0


def random_gain(num_classes, seed=0, dtype=torch.float32):
    return torch.randn(num_classes, num_classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- masks and policies ------------------------------------------------------------------------------------------


def test_softmax_over_the_positive_pairs_by_hand():
    chosen = pair_distribution(GAIN, inverse_temperature=math.log(2))
    weights = torch.tensor([[8.0, 0, 0], [4, 2, 0], [0, 8, 2]])  # 2 ** gain; a gain of zero is not positive
    assert torch.allclose(chosen.probability, weights / 24, atol=1e-7)
    assert torch.equal(chosen.probability > 0, POSITIVE)
    assert chosen.num_positive == 5 and not chosen.mask_dropped
    assert chosen.inverse_temperature == math.log(2)
    p = [8 / 24, 4 / 24, 2 / 24, 8 / 24, 2 / 24]
    assert chosen.effective_pairs == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)), rel=1e-6)


def test_a_temperature_of_zero_is_uniform_over_the_positive_pairs():
    chosen = pair_distribution(GAIN, inverse_temperature=0)
    assert torch.allclose(chosen.probability, POSITIVE.float() / 5)
    assert chosen.effective_pairs == pytest.approx(5, rel=1e-6)


def test_uniform():
    chosen = pair_distribution(GAIN, "uniform")
    assert torch.allclose(chosen.probability, torch.full((3, 3), 1 / 9))
    assert math.isnan(chosen.inverse_temperature) and chosen.num_positive == 5
    masked = pair_distribution(GAIN, "uniform", first_classes=torch.tensor([True, False, True]))
    assert masked.probability.tolist() == [pytest.approx([1 / 6] * 3), [0, 0, 0], pytest.approx([1 / 6] * 3)]


def test_greedy():
    gain = GAIN.clone()
    gain[2, 1] = 3.5
    chosen = pair_distribution(gain, "greedy")
    assert chosen.probability[2, 1] == 1 and chosen.probability.sum() == 1
    assert chosen.effective_pairs == 1
    # of the pairs that have samples
    masked = pair_distribution(gain, "greedy", second_classes=torch.tensor([False, False, True]))
    assert masked.probability[2, 2] == 1 and masked.probability.sum() == 1


@pytest.mark.parametrize("policy", ["selmix", "uniform", "greedy"])
@pytest.mark.parametrize("temperature", ["auto", 0, 3.0])
def test_classes_without_samples_get_exact_zeros(policy, temperature):
    first, second = torch.tensor([True, True, False, True]), torch.tensor([False, True, True, True])
    p = pair_distribution(random_gain(4), policy, temperature, first_classes=first, second_classes=second).probability
    assert bool((p[~first] == 0).all()) and bool((p[:, ~second] == 0).all())
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)


def test_the_largest_gain_may_have_no_samples():
    gain = torch.ones(3, 3)
    gain[0, 0] = 1e6
    p = pair_distribution(gain, first_classes=torch.tensor([False, True, True]), inverse_temperature=1.0).probability
    assert torch.allclose(p[1:], torch.full((2, 3), 1 / 6))


def test_without_a_positive_gain_the_mask_is_dropped():
    gain = -GAIN.abs() - 1
    chosen = pair_distribution(gain, inverse_temperature=1.0)
    assert chosen.mask_dropped and chosen.num_positive == 0
    assert torch.allclose(chosen.probability, torch.softmax(gain.flatten(), 0).view(3, 3))
    assert pair_distribution(gain, "greedy").probability[0, 2] == 1  # the least harmful
    # what matters is the pairs that have samples
    masked = pair_distribution(
        GAIN,
        first_classes=torch.tensor([True, False, False]),
        second_classes=torch.tensor([False, True, True]),
        inverse_temperature=1.0,
    )
    assert masked.mask_dropped and masked.num_positive == 0
    assert masked.probability[0, 2] > masked.probability[0, 1] > 0 and masked.probability.count_nonzero() == 2


def test_zero_gains_are_not_positive():
    chosen = pair_distribution(torch.zeros(3, 3))
    assert chosen.mask_dropped and torch.allclose(chosen.probability, torch.full((3, 3), 1 / 9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gain_is_left_alone(dtype):
    gain = random_gain(4, dtype=dtype)
    copy = gain.clone()
    for policy in ("selmix", "uniform", "greedy"):
        pair_distribution(gain, policy)
    assert torch.equal(gain, copy)


def test_p_is_contiguous_and_keeps_the_dtype():
    for policy in ("selmix", "uniform", "greedy"):
        for dtype in (torch.float32, torch.float64):
            gain = random_gain(4, dtype=dtype).T
            p = pair_distribution(gain, policy).probability
            assert p.is_contiguous() and p.dtype == dtype
            assert torch.equal(p, pair_distribution(gain.contiguous(), policy).probability)


# --- temperature -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.integers(3, 20),
    seed=st.integers(0, 2**31),
    share=st.floats(0.05, 1),
    exponent=st.integers(-20, 20),
    shape=st.sampled_from(["normal", "heavy"]),
)
def test_auto_hits_the_target_share(num_classes, seed, share, exponent, shape):
    gain = random_gain(num_classes, seed)
    gain = (gain.sign() * torch.exp(2 * gain) if shape == "heavy" else gain) * 10.0**exponent
    if bool((gain <= 0).all()):
        return
    chosen = pair_distribution(gain, target_share=share)
    assert chosen.num_positive == int((gain > 0).sum())
    assert chosen.effective_pairs == pytest.approx(max(share * chosen.num_positive, 1), rel=1e-4)
    # more gain, more probability
    order = gain.flatten().argsort()
    assert bool((chosen.probability.flatten()[order].diff() >= 0).all())


def with_corner(gain, value):
    gain[0, 0] = value
    return gain


HISTOGRAM_GAINS = {
    "uniform": lambda generator: torch.rand(400, 400, generator=generator),
    "normal": lambda generator: torch.randn(600, 600, generator=generator),
    "heavy tail": lambda generator: torch.exp(3 * torch.randn(400, 400, generator=generator)),
    "one large": lambda generator: with_corner(1e-4 * torch.rand(400, 400, generator=generator), 1.0),
    "one small": lambda generator: with_corner(1 + 1e-5 * torch.rand(400, 400, generator=generator).double(), 1e-3),
}


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("kind", HISTOGRAM_GAINS)
def test_auto_hits_the_target_share_by_histogram(kind, share):
    """More than 65,536 pairs: within 2%, also where most gains share one bin."""
    gain = HISTOGRAM_GAINS[kind](torch.Generator().manual_seed(0))
    chosen = pair_distribution(gain, target_share=share)
    assert chosen.num_positive > 2**16
    assert chosen.effective_pairs == pytest.approx(share * chosen.num_positive, rel=0.02)


def test_both_branches_agree(monkeypatch):
    gain = HISTOGRAM_GAINS["normal"](torch.Generator().manual_seed(0))
    binned = pair_distribution(gain, target_share=0.05)
    assert binned.num_positive > 2**16
    monkeypatch.setattr("selmix_hf.method.pair_distribution._EXACT_UP_TO", gain.numel())
    exact = pair_distribution(gain, target_share=0.05)
    assert binned.inverse_temperature == pytest.approx(exact.inverse_temperature, rel=1e-3)


def test_ties_at_the_top_are_a_floor():
    for size in (10, 400):
        gain = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
        gain[: size // 2] = 1.0
        chosen = pair_distribution(gain, target_share=0.01)
        assert chosen.effective_pairs == pytest.approx(size**2 / 2, rel=0.02)
        assert float(chosen.probability[: size // 2].sum()) > 0.98


def test_a_share_below_one_pair_is_one_pair():
    gain = random_gain(5)
    chosen = pair_distribution(gain, target_share=1e-3)
    assert chosen.probability.argmax() == gain.argmax() and chosen.effective_pairs == pytest.approx(1, abs=1e-3)


def test_equal_gains_are_drawn_equally():
    gain = torch.where(POSITIVE, 0.25, -1.0)
    chosen = pair_distribution(gain, target_share=0.2)
    assert chosen.inverse_temperature == 0
    assert torch.allclose(chosen.probability, POSITIVE.float() / 5)


def test_one_positive_pair_gets_everything():
    gain = -torch.ones(4, 4)
    gain[2, 3] = 1e-6
    for temperature in ("auto", 0, 5.0):
        p = pair_distribution(gain, inverse_temperature=temperature).probability
        assert p[2, 3] == 1 and p.sum() == 1


@pytest.mark.parametrize("temperature", [1e6, 1e30, 1e38])
def test_a_huge_temperature_does_not_overflow(temperature):
    gain = 100 * random_gain(4)
    p = pair_distribution(gain, inverse_temperature=temperature).probability
    assert p.flatten()[gain.argmax()] == 1 and p.sum() == 1


def test_a_large_temperature_tells_close_gains_apart():
    """s (g - g') = 1 for gains near 1: s * G rounds to a tie in float32."""
    gain = torch.tensor([[1.0, 1.0], [-1.0, 1.0 + 2**-20]])
    p = pair_distribution(gain, inverse_temperature=2.0**20).probability
    assert p.flatten().tolist() == pytest.approx([1 / (2 + math.e)] * 2 + [0, math.e / (2 + math.e)], rel=1e-6)


def test_effective_number_by_hand():
    assert effective_number(torch.full((3, 4), 1 / 12)) == pytest.approx(12, rel=1e-6)
    assert effective_number(torch.tensor([0.0, 1.0])) == 1
    assert effective_number(torch.tensor([0.5, 0.25, 0.25])) == pytest.approx(2**1.5, rel=1e-6)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gain_that_is_not_finite_is_refused(value):
    gain = GAIN.clone()
    gain[1, 2] = value
    with pytest.raises(ValueError, match="gain matrix holds values that are not finite, first for class 1;"):
        pair_distribution(gain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pair_sampling": "random"}, "pair_sampling must be one of selmix, uniform, greedy, found 'random'"),
        ({"inverse_temperature": "warm"}, "inverse_temperature must be 'auto' or a number >= 0, found 'warm'"),
        ({"inverse_temperature": -1.0}, "found -1.0"),
        ({"inverse_temperature": float("nan")}, "found nan"),
        ({"inverse_temperature": float("inf")}, "found inf"),
        ({"inverse_temperature": True}, "found True"),
        ({"inverse_temperature": None}, "found None"),
        ({"target_share": 0.0}, r"target_share must lie in \(0, 1\], found 0.0"),
        ({"target_share": 1.1}, "found 1.1"),
        ({"target_share": float("nan")}, "found nan"),
        ({"first_classes": torch.zeros(3, dtype=torch.bool)}, "no pair of classes has samples in both sets"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        pair_distribution(GAIN, **options)


def test_gains_that_differ_by_nothing_are_uniform():
    gain = torch.tensor([[1e-310, 2e-310], [1e-310, -1.0]], dtype=torch.float64)
    chosen = pair_distribution(gain, target_share=0.5)
    assert chosen.inverse_temperature == 0
    assert chosen.probability.flatten().tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])

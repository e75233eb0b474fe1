"""From gains to the distribution P over class pairs.

SelMix (arXiv 2403.18301, section 4): P = softmax(s G) over all K x K pairs. Shape suffix: K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix_hf.method.finite import all_finite, first_not_finite

PAIR_SAMPLING = ("selmix", "uniform", "greedy")
_EXACT_UP_TO = 2**16  # pairs; beyond, entropies come from a histogram of the gains
_HISTOGRAM_BINS = 4096
_SMALLEST_EXPONENT = -700.0  # nothing beside exp(0), and still a normal number: others are slow
_NO_SPREAD = 1e-290  # s would overflow
_AT_ONCE = 2**18  # pairs, so that what is in between stays in the processor's cache


@dataclass(frozen=True)
class PairDistribution:
    """P with what was decided on the way.

    Attributes:
        probability: P, K x K, sums to 1; row = class whose label is kept, column = class mixed in.
        inverse_temperature: the s that was used (nan for "uniform" and "greedy").
        num_positive: pairs with a positive gain.
        mask_dropped: no gain was positive, so that negative ones were let in.
    """

    probability: Tensor
    inverse_temperature: float
    num_positive: int
    mask_dropped: bool

    @property
    def effective_pairs(self) -> float:
        """exp(entropy of P): 1 for a single pair, K^2 for the uniform distribution."""
        return effective_number(self.probability)


def effective_number(probability: Tensor) -> float:
    """exp(entropy) of a distribution."""
    return math.exp(float(torch.special.entr(probability.float()).sum(dtype=torch.float64)))


def pair_distribution(
    gain: Tensor,
    pair_sampling: str = "selmix",
    inverse_temperature: float | str = "auto",
    target_share: float = 0.5,
    first_classes: Tensor | None = None,
    second_classes: Tensor | None = None,
) -> PairDistribution:
    """P over pairs of classes.

    Args:
        gain: G, K x K, from `gain.gain_matrix`.
        pair_sampling: "selmix" P = softmax(s G) over the pairs with a positive gain; "uniform" over all pairs;
            "greedy" all mass on the largest gain.
        inverse_temperature: s, or "auto": the s at which exp(entropy of P) is `target_share` of the number of
            pairs with a positive gain, whatever the scale of the gains.
        target_share: f of "auto", in (0, 1].
        first_classes: mask (bool, K) of the classes that have samples in the first set; default all.
        second_classes: likewise for the second set.

    If no gain is positive the mask is dropped: the least harmful pairs are drawn, and `mask_dropped` says so.

    Raises:
        ValueError: a gain that is not finite, an unknown `pair_sampling`, a bad temperature or share, or no class.
    """
    check_policy(pair_sampling, inverse_temperature, target_share)
    if not all_finite(gain):
        raise ValueError(
            f"the gain matrix holds values that are not finite, first for class {first_not_finite(gain)}; stop and "
            "look at the features and the head."
        )
    allowed_KK = torch.clone(gain, memory_format=torch.contiguous_format)  # -inf where a pair may not be drawn
    if first_classes is not None:
        allowed_KK[~first_classes.to(gain.device)] = -math.inf
    if second_classes is not None:
        allowed_KK[:, ~second_classes.to(gain.device)] = -math.inf
    largest = float(allowed_KK.max())
    if largest == -math.inf:
        raise ValueError("no pair of classes has samples in both sets.")
    num_positive = int((allowed_KK > 0).sum())
    mask_dropped = num_positive == 0
    if pair_sampling == "uniform":
        probability_KK = (allowed_KK > -math.inf).to(gain.dtype)
        return PairDistribution(probability_KK / probability_KK.sum(), math.nan, num_positive, mask_dropped)
    if pair_sampling == "greedy":
        probability_KK = torch.zeros_like(allowed_KK)
        probability_KK.view(-1)[allowed_KK.argmax()] = 1
        return PairDistribution(probability_KK, math.nan, num_positive, mask_dropped)
    floor = -math.inf if mask_dropped else 0.0  # pairs at or below it are not drawn
    if inverse_temperature == "auto":
        num_allowed = int(torch.count_nonzero(allowed_KK > floor))
        inverse_temperature = _solve(allowed_KK.view(-1), floor, target_share * num_allowed)
    scale, total = float(inverse_temperature), 0.0
    for chunk_P in torch.split(allowed_KK.view(-1), _AT_ONCE):
        # float64 and relative to the largest gain: in float32 a large s overflows or makes ties
        offsets_P = (chunk_P.double() - largest).clamp_(-1e300)  # -inf times s = 0 would be nan
        masses_P = offsets_P.mul_(scale).clamp_(_SMALLEST_EXPONENT).exp_()
        masses_P *= chunk_P > floor
        total += float(masses_P.sum())
        chunk_P.copy_(masses_P)
    return PairDistribution(allowed_KK.div_(total), scale, num_positive, mask_dropped)


def check_policy(pair_sampling: str, inverse_temperature: float | str, target_share: float) -> None:
    """Raise ValueError where the options of `pair_distribution` are wrong."""
    if pair_sampling not in PAIR_SAMPLING:
        raise ValueError(f"pair_sampling must be one of {', '.join(PAIR_SAMPLING)}, found {pair_sampling!r}.")
    is_number = isinstance(inverse_temperature, (int, float)) and not isinstance(inverse_temperature, bool)
    if inverse_temperature != "auto" and not (is_number and 0 <= float(inverse_temperature) < math.inf):
        raise ValueError(f"inverse_temperature must be 'auto' or a number >= 0, found {inverse_temperature!r}.")
    if not 0 < target_share <= 1:
        raise ValueError(f"target_share must lie in (0, 1], found {target_share}.")


def _solve(gains_P: Tensor, floor: float, wanted: float) -> float:
    """The s at which softmax over the gains above `floor` has exp(entropy) = `wanted`."""
    num_pairs, largest = int(torch.count_nonzero(gains_P > floor)), float(gains_P.max())
    smallest = floor if math.isfinite(floor) else float(gains_P[gains_P > floor].min())
    spread = largest - smallest
    if spread <= _NO_SPREAD or num_pairs <= wanted:
        return 0.0
    binned = num_pairs > _EXACT_UP_TO
    if binned:
        count_B, offset_B = _histogram(gains_P, smallest, largest)
    else:
        offset_B = (gains_P[gains_P > floor].double() - largest) / spread  # in [-1, 0]
        count_B = torch.ones_like(offset_B)
    num_top = float(count_B[offset_B == 0].sum())
    if num_top == num_pairs:
        return 0.0
    target = math.log(max(wanted, num_top))

    def entropy(s: float) -> float:
        mass_B = count_B * torch.exp(s * offset_B)
        total = float(mass_B.sum())
        return math.log(total) - s * float((mass_B * offset_B).sum()) / total

    # the entropy falls as s grows; s spans what two gains in a row and what double precision can tell apart
    low, high = 1e-3, 1e9
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if entropy(middle) > target else (low, middle)
        if high / low < 1 + 1e-6:
            break
    if binned and (high > _HISTOGRAM_BINS / 8 or num_top > wanted):
        # P varies within a bin, and is zero but for gains near the largest: bin those alone
        finer = _solve(gains_P, largest - spread / 8, wanted)
        if finer > 0:
            return finer
    return high / spread


def _histogram(gains_P: Tensor, smallest: float, largest: float) -> tuple[Tensor, Tensor]:
    """How many gains fall into each bin from `smallest` up, and the mean of (gain - largest) / spread in it."""
    count_B = torch.zeros(_HISTOGRAM_BINS + 1, dtype=torch.float64, device=gains_P.device)
    sum_B, spread = torch.zeros_like(count_B), largest - smallest
    for chunk_P in torch.split(gains_P, _AT_ONCE):
        offsets_P = (chunk_P.double() - largest).div_(spread)
        # bin 0 takes what lies below
        bins_P = (offsets_P + 1).mul_(_HISTOGRAM_BINS - 1).floor_().add_(1).clamp_(0, _HISTOGRAM_BINS).int()
        count_B += torch.bincount(bins_P, minlength=_HISTOGRAM_BINS + 1)
        sum_B.index_add_(0, bins_P, offsets_P)  # full_determinism refuses a weighted bincount on GPUs
    count_B[0] = 0
    offset_B = sum_B[count_B > 0] / count_B[count_B > 0]
    # a bin's mean lies below 0: without this every mass may underflow
    return count_B[count_B > 0], offset_B - offset_B.max()


def staleness(old_probability: Tensor | None, probability: Tensor, gain: Tensor) -> dict[str, float]:
    """What a period left of its P (K x K), by the gains G at its end: "stale_share", mass of the old P on pairs that
    have no positive gain; "kept_gain", mean gain under the old P over that under the new one, between -1 and 1.

    Empty without an old P; without kept_gain where the new P has no gain either.
    """
    if old_probability is None:
        return {}
    old_KK, new_KK = old_probability.to(gain), probability.to(gain)
    report = {"stale_share": float(old_KK[gain <= 0].sum())}
    old, new = float((old_KK * gain).sum()), float((new_KK * gain).sum())
    return report | ({"kept_gain": max(-1.0, min(old / new, 1.0))} if new > 0 else {})

"""From gains to the distribution P over class pairs, and the state of it that is saved with a checkpoint.

SelMix (arXiv 2403.18301, section 4): P = softmax(s G) over all K x K pairs. Shape suffix: K classes.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PAIR_SAMPLING = ("selmix", "uniform", "greedy")
_EXACT_UP_TO = 2**16  # pairs; beyond, entropies come from a histogram of the gains
_HISTOGRAM_BINS = 4096


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
    gain, num_classes = gain.contiguous(), len(gain)
    if not bool(gain.isfinite().all()):
        raise ValueError(
            "the gain matrix holds values that are not finite; stop and look at the features and the head."
        )
    allowed_KK = torch.ones_like(gain, dtype=torch.bool)
    if first_classes is not None:
        allowed_KK &= first_classes.to(gain.device)[:, None]
    if second_classes is not None:
        allowed_KK &= second_classes.to(gain.device)[None, :]
    if not bool(allowed_KK.any()):
        raise ValueError("no pair of classes has samples in both sets.")
    positive_KK = allowed_KK & (gain > 0)
    num_positive = int(positive_KK.sum())
    mask_dropped = num_positive == 0
    if pair_sampling == "uniform":
        probability_KK = allowed_KK.to(gain.dtype) / allowed_KK.sum()
        return PairDistribution(probability_KK, math.nan, num_positive, mask_dropped)
    if not mask_dropped:
        allowed_KK = positive_KK
    gain_KK = gain.masked_fill(~allowed_KK, -math.inf)
    if pair_sampling == "greedy":
        probability_KK = torch.zeros_like(gain)
        probability_KK.view(-1)[gain_KK.argmax()] = 1
        return PairDistribution(probability_KK, math.nan, num_positive, mask_dropped)
    if inverse_temperature == "auto":
        inverse_temperature = solve_inverse_temperature(gain[allowed_KK], target_share)
    # float64 and relative to the largest gain: in float32 a large s overflows or makes ties; s * -inf is nan at s = 0
    logits_KK = (gain.double() - gain_KK.max()).mul_(float(inverse_temperature)).masked_fill_(~allowed_KK, -math.inf)
    probability_KK = torch.softmax(logits_KK.view(-1), 0).view(num_classes, num_classes).to(gain.dtype)
    return PairDistribution(probability_KK, float(inverse_temperature), num_positive, mask_dropped)


def check_policy(pair_sampling: str, inverse_temperature: float | str, target_share: float) -> None:
    """Raise ValueError where the options of `pair_distribution` are wrong."""
    if pair_sampling not in PAIR_SAMPLING:
        raise ValueError(f"pair_sampling must be one of {', '.join(PAIR_SAMPLING)}, found {pair_sampling!r}.")
    is_number = isinstance(inverse_temperature, (int, float)) and not isinstance(inverse_temperature, bool)
    if inverse_temperature != "auto" and not (is_number and 0 <= float(inverse_temperature) < math.inf):
        raise ValueError(f"inverse_temperature must be 'auto' or a number >= 0, found {inverse_temperature!r}.")
    if not 0 < target_share <= 1:
        raise ValueError(f"target_share must lie in (0, 1], found {target_share}.")


def solve_inverse_temperature(gains: Tensor, target_share: float) -> float:
    """The s at which softmax(s * gains) has exp(entropy) = target_share * (number of gains), but at least one pair.

    Args:
        gains: the gains of the allowed pairs, any shape.
        target_share: in (0, 1].

    Returns:
        s >= 0; 0 where the gains are all equal (any s gives the same distribution).
    """
    gains_P = gains.flatten().double()
    spread = float(gains_P.max() - gains_P.min())
    if spread <= 0 or target_share >= 1:
        return 0.0
    offsets_P = (gains_P - gains_P.max()) / spread  # in [-1, 0]
    binned = len(offsets_P) > _EXACT_UP_TO
    if binned:
        bins_P = ((offsets_P + 1) * (_HISTOGRAM_BINS - 1)).round().long()
        count_B = torch.bincount(bins_P, minlength=_HISTOGRAM_BINS).double()
        offset_B = torch.bincount(bins_P, weights=offsets_P, minlength=_HISTOGRAM_BINS) / count_B.clamp(min=1)
        offset_B, count_B = offset_B[count_B > 0], count_B[count_B > 0]
        offset_B -= offset_B.max()  # a bin's mean lies below 0: without this every mass may underflow
    else:
        offset_B, count_B = offsets_P, torch.ones_like(offsets_P)
    wanted = target_share * len(offsets_P)
    num_top = float(count_B[offset_B == 0].sum())
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
        near_P = gains_P[offsets_P > -1 / 8]
        if near_P.min() < near_P.max() and len(near_P) > wanted:
            return solve_inverse_temperature(near_P, wanted / len(near_P))
    return high / spread


@dataclass
class PairState:
    """What a run must keep to go on drawing the same pairs: saved with every checkpoint.

    Attributes:
        period: number of the period that P was made for; -1 before the first.
        probability: P, K x K, or None before the first period.
        multipliers: of the objective.
        start_counts: counts (K x K) of the gain set where the run began, or None before the first period.
        geometry: what fixes where a period begins and what it is for (refresh_steps, pairs a step, objective, ...),
            compared on resume.
    """

    period: int = -1
    probability: Tensor | None = None
    multipliers: dict[str, Tensor] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)
    start_counts: Tensor | None = None

    FILE_NAME = "selmix_state.safetensors"

    def save(self, folder: str | os.PathLike) -> None:
        """Write `FILE_NAME` into the folder, whole or not at all."""
        tensors = {f"multiplier.{name}": value.contiguous() for name, value in self.multipliers.items()}
        if self.probability is not None:
            tensors["probability"] = self.probability.cpu().contiguous()
        if self.start_counts is not None:  # as (row, column, count): no more entries than images were counted
            rows, columns = self.start_counts.nonzero(as_tuple=True)
            tensors["start_counts"] = torch.stack([rows, columns, self.start_counts[rows, columns]]).cpu()
        path = Path(folder) / self.FILE_NAME
        metadata = {"period": str(self.period), "geometry": json.dumps(self.geometry)}
        save_file(tensors, path.with_suffix(".tmp"), metadata=metadata)
        os.replace(path.with_suffix(".tmp"), path)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> PairState:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder has no such file.
        """
        from safetensors import safe_open

        path = Path(folder) / cls.FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the checkpoint was not written by SelMixTrainer, or in part.")
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(path)
        counts = tensors.pop("start_counts", None)
        if counts is not None:
            rows, columns, values = counts
            counts = torch.zeros_like(tensors["probability"], dtype=values.dtype).index_put_((rows, columns), values)
        return cls(
            period=int(metadata["period"]),
            probability=tensors.pop("probability", None),
            multipliers={name.removeprefix("multiplier."): value for name, value in tensors.items()},
            geometry=json.loads(metadata["geometry"]),
            start_counts=counts,
        )

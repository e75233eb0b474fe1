"""The smallest of several recalls, or the mean of the worst share of them, and the multipliers that weigh them.

Shape suffix: J components.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

_ROUNDING = 1e-9
_NAMES = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "tenth", 20: "twentieth", 100: "hundredth"}


def worst_number(share: float, number: int) -> float:
    """How many of so many classes a share is, such as 5.7 of 57; whole where only rounding says otherwise."""
    return round(share * number, 9)


def worst_share_mean(values: Tensor, share: float) -> Tensor:
    """Mean of the worst share of the values (... x J): their CVaR, the conditional value at risk of Rockafellar and
    Uryasev.

    With n = share J: the floor(n) lowest and n - floor(n) of the next one, divided by n; the smallest alone where n is
    1 or less. It is the least that weights between 0 and 1/n with sum 1 can make of the values.
    """
    number = worst_number(share, values.shape[-1])
    if number <= 1:
        return values.amin(-1)
    rank_J = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    return (values.sort().values * (number - rank_J).clamp(0, 1)).sum(-1) / number


def worst_share_title(share: float) -> str:
    """For a person, such as "mean recall of the worst tenth"."""
    parts = round(1 / share)
    words = _NAMES.get(parts) if math.isclose(parts * share, 1) else None
    return f"mean recall of the worst {words or f'{100 * share:g}%'}"


def check_worst_share(share: float) -> None:
    """Raise ValueError for a share outside (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(
            f"worst_share must lie in (0, 1], found {share}: 0.1 is the mean recall of the worst tenth of the classes."
        )


def capped_softmax(log_weights: Tensor, cap: float) -> Tensor:
    """The distribution (J) with no entry above `cap` that is nearest to softmax(log_weights) in relative entropy.

    It is min(cap, s softmax) with s such that the sum is 1: where capping what exceeds, rescaling the rest, and so on
    until nothing exceeds comes to an end. `cap` is 1/J at least.
    """
    sorted_J = log_weights.sort(descending=True).values
    rest_J = sorted_J.flip(0).logcumsumexp(0).flip(0)  # of all but the m largest, m = 0 ... J - 1
    room_J = (1 - cap * torch.arange(len(sorted_J), device=sorted_J.device, dtype=sorted_J.dtype)).clamp(min=0)
    scale_J = room_J.log() - rest_J
    num_capped = int((sorted_J + scale_J <= math.log(cap) + _ROUNDING).int().argmax())  # the fewest that will do
    return (log_weights + scale_J[num_capped]).exp().clamp(max=cap)


def multipliers_of(log_weights: Tensor, share: float) -> Tensor:
    """The multipliers (J) of a minimum, or of the mean of a worst share, from their logarithms up to a constant."""
    number = worst_number(share, len(log_weights))
    return torch.softmax(log_weights, 0) if number <= 1 else capped_softmax(log_weights, 1 / number)


@dataclass(frozen=True)
class MinimumMetric:
    """min over lambda of sum_k lambda_k r_k, lambda in the simplex: the smallest of the components r (recalls, group
    recalls). With lambda_k <= 1 / (share J) it is the mean of the worst share of them, see `worst_share_mean`.

    The multipliers follow exponentiated gradient, log lambda <- memory * log lambda - (1 - memory) * eta * r,
    normalised: -eta times the running mean of r. Without earlier multipliers, and with memory 0, they follow from the
    current components alone, as SelMix's authors have it with eta 50. One image moves a recall by 1 / n_k, so eta is
    capped at n_min ln 2: no single image may more than double a multiplier.

    With a share they are then projected, see `capped_softmax`, and the next step begins with the projected ones: what
    is remembered of a class is never above the cap, so that one that recovers loses weight at once.
    Components that stay as they are lead to the projection of softmax(-eta r) either way.

    Args:
        components: C -> r, shape J.
        rate: eta.
        memory: share of the previous log multipliers that is kept, in [0, 1).
        share: of the components, the worst ones, whose mean counts; the smallest alone where that is no more than one
            of them.
    """

    name: str
    components: Callable[[Tensor], Tensor]
    rate: float = 10.0
    memory: float = 0.8
    share: float = 0.0
    steered: ClassVar[bool] = True

    def value(self, confusion: Tensor) -> Tensor:
        return worst_share_mean(self.components(confusion), self.share)

    def lagrangian(self, confusion: Tensor, multiplier: Tensor | None) -> Tensor:
        components_J = self.components(confusion)
        if multiplier is None:
            multiplier = torch.full_like(components_J, 1 / len(components_J))
        return (multiplier.to(components_J) * components_J).sum()

    def initial_multiplier(self, num_classes: int) -> Tensor | None:
        components_J = self.components(torch.eye(num_classes, dtype=torch.float64) / num_classes)
        return torch.full_like(components_J, 1 / len(components_J))

    def update_multiplier(self, multiplier: Tensor | None, confusion: Tensor, class_counts: Tensor) -> Tensor | None:
        components_J = self.components(confusion).double()
        target_J = -min(self.rate, float(class_counts.min()) * math.log(2)) * components_J
        if multiplier is not None:
            # log(0) of an underflown multiplier would never come back
            previous_J = multiplier.to(components_J).log().clamp(min=-700)
            target_J = self.memory * previous_J + (1 - self.memory) * target_J
        return multipliers_of(target_J, self.share)

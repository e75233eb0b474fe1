"""Methods that turn the same checkpoint into another classifier, each with the few settings that it is tried with.

A rival sees features of a frozen backbone: what it makes is a head. Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from selmix_hf.head_fitting.class_bias import logit_adjustment, tune_class_bias
from selmix_hf.head_fitting.cost_sensitive import cost_sensitive_head
from selmix_hf.head_fitting.retraining import (
    Head,
    class_balanced_weight,
    learn_weight_scale,
    retrain_head,
    tau_normalized,
)
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.method.objectives import Objective

SELMIX = "SelMix"  # the method that they are rivals of
Setting = Mapping[str, Any]
Samples = tuple[Tensor, Tensor]  # features N x D, labels N


@dataclass(frozen=True)
class Start:
    """What every rival begins with.

    Attributes:
        head: weight and bias of the checkpoint.
        train, validation: features and labels.
        objective: to be optimised.
        steps, batch_size: the budget: images seen are their product.
        refresh_steps: between two looks at the validation set, of those that look.
        seed: of the draws.
    """

    head: Head
    train: Samples
    validation: Samples
    objective: Objective
    steps: int
    batch_size: int
    refresh_steps: int
    seed: int

    @property
    def class_counts(self) -> Tensor:
        """Training samples of each class, K."""
        return torch.bincount(self.train[1], minlength=len(self.head[0]))

    @property
    def budget(self) -> dict[str, Any]:
        """For `head_fitting.retraining.retrain_head`."""
        return {"steps": self.steps, "batch_size": self.batch_size, "seed": self.seed}


@dataclass(frozen=True)
class Rival:
    """A method.

    Attributes:
        fit: makes a head of a `Start` and a setting.
        settings: that it is tried with, the most usual one first.
        reads_objective: whether what it makes depends on the objective, beside the choice of the setting.
        reads_validation: whether it is fitted on validation samples, so that others must choose its setting.
        draws: whether it differs from seed to seed.
    """

    fit: Callable[[Start, Setting], Head]
    settings: Sequence[Setting] = field(default=({},))
    reads_objective: bool = False
    reads_validation: bool = False
    draws: bool = True


def _posthoc(start: Start, setting: Setting) -> Head:
    weight, bias = start.head
    return weight, bias + logit_adjustment(start.class_counts.tolist(), setting["tau"]).to(bias)


def _class_bias(start: Start, setting: Setting) -> Head:
    (weight, bias), (features_ND, labels_N) = start.head, start.validation
    tuned_K = tune_class_bias(features_ND @ weight.T + bias, labels_N, start.objective)
    return weight, bias + setting["share"] * tuned_K


def _tau_normalized(start: Start, setting: Setting) -> Head:
    return tau_normalized(start.head[0], setting["tau"]), torch.zeros_like(start.head[1])


def _crt(start: Start, setting: Setting) -> Head:
    features_ND, labels_N = start.train
    own = {"sample_weight": class_balanced_weight(labels_N), **setting, **start.budget}
    return retrain_head(features_ND, labels_N, len(start.head[0]), **own)


def _lws(start: Start, setting: Setting) -> Head:
    features_ND, labels_N = start.train
    return learn_weight_scale(features_ND, labels_N, start.head, **setting, **start.budget)


def _adjusted(start: Start, setting: Setting, train: Samples | None = None) -> Head:
    features_ND, labels_N = train or start.train
    own = {"tau": 1.0, **setting}
    loss = LogitAdjustedLoss(torch.bincount(labels_N, minlength=len(start.head[0])).tolist(), own.pop("tau"))
    return retrain_head(features_ND, labels_N, len(start.head[0]), loss, start=start.head, **own, **start.budget)


def _with_validation(start: Start, setting: Setting) -> Head:
    both = zip(start.train, start.validation, strict=True)
    features_ND, labels_N = (torch.cat(parts) for parts in both)
    return _adjusted(start, setting, (features_ND, labels_N))


def _with_validation_and_bias(start: Start, setting: Setting) -> Head:
    head = _with_validation(start, {"learning_rate": setting["learning_rate"]})
    return _class_bias(dataclasses.replace(start, head=head), setting)


def _cost_sensitive(start: Start, setting: Setting) -> Head:
    own = {"refresh_steps": start.refresh_steps, **setting, **start.budget}
    return cost_sensitive_head(*start.train, *start.validation, start.objective, start=start.head, **own)


def _rates(*rates: float, **more: Any) -> list[Setting]:
    return [{"learning_rate": rate, **more} for rate in rates]


RIVALS: dict[str, Rival] = {
    "the start": Rival(lambda start, _: start.head, draws=False),
    "post-hoc logit adjustment": Rival(_posthoc, [{"tau": tau} for tau in (1, 0.25, 0.5, 1.5, 2)], draws=False),
    "class bias": Rival(
        _class_bias,
        [{"share": share} for share in (1, 0.2, 0.4, 0.6, 0.8)],
        reads_objective=True,
        reads_validation=True,
        draws=False,
    ),
    "tau-normalisation": Rival(_tau_normalized, [{"tau": tau} for tau in (1, 0.25, 0.5, 0.75, 1.25)], draws=False),
    "cRT": Rival(_crt, _rates(0.01, 0.001, 0.003, 0.03, 0.1)),
    "LWS": Rival(_lws, _rates(0.01, 0.001, 0.003, 0.03, 0.1)),
    "balanced-softmax head": Rival(_adjusted, _rates(0.001, 1e-4, 0.003, 0.01, 0.03)),
    "logit-adjusted head": Rival(
        _adjusted, [{"learning_rate": 0.003, "tau": tau} for tau in (1.25, 0.5, 0.75, 1.5, 2)]
    ),
    "cost-sensitive head": Rival(
        _cost_sensitive,
        [*_rates(0.001, 1e-4, 0.01, rate=1.0), *_rates(0.001, 0.01, rate=0.1)],
        reads_objective=True,
        reads_validation=True,
    ),
    "head on train + validation": Rival(
        _with_validation, _rates(0.001, 1e-4, 0.003, 0.01, 0.03), reads_validation=True
    ),
    "head on train + validation, class bias": Rival(
        _with_validation_and_bias,
        [
            {"share": share, "learning_rate": rate}
            for share, rate in ((1, 0.003), (1, 0.001), (0.4, 0.003), (0.2, 0.003), (1, 0.01))
        ],
        reads_objective=True,
        reads_validation=True,
    ),
}

"""Every method of the comparison: what it makes of the start, and the few settings that it is tried with.

To add one, write its function here or in `head_fitting`, and give it a line in `METHODS`. Shape suffixes: N samples,
D features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from selmix_hf.config import SelMixConfig
from selmix_hf.head_fitting.class_bias import logit_adjustment, tune_class_bias
from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss, cost_sensitive_head
from selmix_hf.head_fitting.retraining import (
    Head,
    class_balanced_weight,
    learn_weight_scale,
    retrain_head,
    tau_normalized,
)
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.method.objectives import Objective
from selmix_hf.options import options_of
from selmix_hf.studies.compare.base import Method, Setting
from selmix_hf.studies.compare.by_trainer import ByTrainer
from selmix_hf.studies.compare.on_features import HeadTask, OnFeatures, Samples
from selmix_hf.studies.one_start import OneStart
from selmix_hf.training.cost_sensitive_callback import CostSensitiveCallback

SELMIX = "SelMix"  # the method that the others are held against
_OF_PAIRS = {name: option.default for name, option in options_of(SelMixConfig).items() if option.of_pairs}


# --- heads -------------------------------------------------------------------------------------------------------


def _posthoc(task: HeadTask, setting: Setting) -> Head:
    weight, bias = task.head
    return weight, bias + logit_adjustment(task.class_counts.tolist(), setting["tau"]).to(bias)


def _class_bias(task: HeadTask, setting: Setting) -> Head:
    (weight, bias), (features_ND, labels_N) = task.head, task.validation
    tuned_K = tune_class_bias(features_ND @ weight.T + bias, labels_N, task.objective)
    return weight, bias + setting["share"] * tuned_K


def _tau_normalized(task: HeadTask, setting: Setting) -> Head:
    return tau_normalized(task.head[0], setting["tau"]), torch.zeros_like(task.head[1])


def _crt(task: HeadTask, setting: Setting) -> Head:
    features_ND, labels_N = task.train
    own = {"sample_weight": class_balanced_weight(labels_N), **setting, **task.budget}
    return retrain_head(features_ND, labels_N, len(task.head[0]), **own)


def _lws(task: HeadTask, setting: Setting) -> Head:
    features_ND, labels_N = task.train
    return learn_weight_scale(features_ND, labels_N, task.head, **setting, **task.budget)


def _adjusted(task: HeadTask, setting: Setting, train: Samples | None = None) -> Head:
    features_ND, labels_N = train or task.train
    own = {"tau": 1.0, **setting}
    loss = LogitAdjustedLoss(torch.bincount(labels_N, minlength=len(task.head[0])).tolist(), own.pop("tau"))
    return retrain_head(features_ND, labels_N, len(task.head[0]), loss, start=task.head, **own, **task.budget)


def _with_validation(task: HeadTask, setting: Setting) -> Head:
    both = zip(task.train, task.validation, strict=True)
    features_ND, labels_N = (torch.cat(parts) for parts in both)
    return _adjusted(task, setting, (features_ND, labels_N))


def _with_validation_and_bias(task: HeadTask, setting: Setting) -> Head:
    head = _with_validation(task, {"learning_rate": setting["learning_rate"]})
    return _class_bias(dataclasses.replace(task, head=head), setting)


def _cost_sensitive(task: HeadTask, setting: Setting) -> Head:
    own = {"refresh_steps": task.refresh_steps, **setting, **task.budget}
    return cost_sensitive_head(*task.train, *task.validation, task.objective, start=task.head, **own)


def _rates(*rates: float, **more: Any) -> list[Setting]:
    return [{"learning_rate": rate, **more} for rate in rates]


# --- runs of the trainer -----------------------------------------------------------------------------------------


def _cost_sensitive_run(
    start: OneStart, options: dict[str, Any], steering_N: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Single samples, twice as many as pairs."""
    batch = {"per_device_train_batch_size": 2 * start.config.per_device_train_batch_size}
    options = {**options, **_OF_PAIRS, **batch}
    train_N = start.rows["train"]
    trained_N = np.append(train_N, steering_N) if options["gain_set_use"] == "train" else train_N
    counts_K = np.bincount(start.labels_N[trained_N], minlength=start.num_classes).tolist()
    loss = CostSensitiveLoss(start.objective(options["objective"]), counts_K, options.pop("rate", 1.0))
    return options, {"compute_loss_func": loss, "callbacks": [CostSensitiveCallback(loss)]}


def _selmix_settings(objective: Objective, freeze_backbone: bool) -> Sequence[Setting]:
    """The defaults, and uses of the validation samples beside steering, by the kind of objective."""
    refit: Setting = {"gain_set_use": "refit"}
    train: Setting = {"gain_set_use": "train"}
    if objective.metric.steered:
        cross: Setting = {**refit, "cross": True}
        tried = [{}, refit, {**cross, "bias_share": 0.5}, {**refit, "bias_share": 0.5}, cross]
    else:
        tried = [{}, refit, train, {"cross": True}, {**train, "scale": 0.3}]
    # "cross" averages heads, not networks
    return [setting for setting in tried if freeze_backbone or "cross" not in setting]


# --- the methods, in the order of tables -------------------------------------------------------------------------

METHODS: dict[str, Method] = {
    "the start": OnFeatures(lambda task, _: task.head, draws=False),
    "post-hoc logit adjustment": OnFeatures(_posthoc, [{"tau": tau} for tau in (1, 0.25, 0.5, 1.5, 2)], draws=False),
    "class bias": OnFeatures(
        _class_bias,
        [{"share": share} for share in (1, 0.2, 0.4, 0.6, 0.8)],
        reads_objective=True,
        reads_validation=True,
        draws=False,
    ),
    "tau-normalisation": OnFeatures(
        _tau_normalized, [{"tau": tau} for tau in (1, 0.25, 0.5, 0.75, 1.25)], draws=False
    ),
    "cRT": OnFeatures(_crt, _rates(0.01, 0.001, 0.003, 0.03, 0.1)),
    "LWS": OnFeatures(_lws, _rates(0.01, 0.001, 0.003, 0.03, 0.1)),
    "balanced-softmax head": OnFeatures(_adjusted, _rates(0.001, 1e-4, 0.003, 0.01, 0.03)),
    "logit-adjusted head": OnFeatures(
        _adjusted, [{"learning_rate": 0.003, "tau": tau} for tau in (1.25, 0.5, 0.75, 1.5, 2)]
    ),
    "cost-sensitive head": OnFeatures(
        _cost_sensitive,
        [*_rates(0.001, 1e-4, 0.01, rate=1.0), *_rates(0.001, 0.01, rate=0.1)],
        reads_objective=True,
        reads_validation=True,
        whole_network=False,
    ),
    "head on train + validation": OnFeatures(
        _with_validation, _rates(0.001, 1e-4, 0.003, 0.01, 0.03), reads_validation=True
    ),
    "head on train + validation, class bias": OnFeatures(
        _with_validation_and_bias,
        [
            {"share": share, "learning_rate": rate}
            for share, rate in ((1, 0.003), (1, 0.001), (0.4, 0.003), (0.2, 0.003), (1, 0.01))
        ],
        reads_objective=True,
        reads_validation=True,
    ),
    "cost-sensitive": ByTrainer(
        [
            {"scale": scale, "rate": rate}
            for scale, rate in ((1.0, 1.0), (0.3, 1.0), (3.0, 1.0), (1.0, 0.1), (3.0, 0.1))
        ],
        {"sampling": "natural"},
        _cost_sensitive_run,
        frozen_backbone=False,
    ),
    "uniform mixup": ByTrainer(
        [{"scale": scale} for scale in (1.0, 0.1, 0.3, 3.0, 10.0)],
        {"pair_sampling": "uniform"},
        reads_objective=False,
        reads_validation=False,
    ),
    SELMIX: ByTrainer(_selmix_settings),
}


def methods_of(config: SelMixConfig) -> dict[str, Method]:
    """Those that are compared with the settings of a run, by name, SelMix last.

    What is defined on the head alone stays that where all weights train: SelMix, uniform mixup and the cost-sensitive
    reduction train all of them.
    """
    part = "frozen_backbone" if config.freeze_backbone else "whole_network"
    return {name: method.in_run(config) for name, method in METHODS.items() if getattr(method, part)}

"""The loss of a batch: of pairs, of the user's own, accumulated, and where it is not finite."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from runs import BOTH, At
from transformers import AutoModelForImageClassification

from selmix_hf import LogitAdjustedLoss
from selmix_hf.training.loss import MixedLoss


def _cross_entropy(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


@pytest.mark.parametrize(("freeze", "own_loss"), [(False, None), (True, None), (True, _cross_entropy)])
def test_accumulation_traces_the_same_curve(freeze, own_loss, tmp_path):
    runs = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        options |= {"freeze_backbone": freeze, "objective": "mean_recall", "learning_rate": 0.02, **tiny.BARE}
        runs.append(tiny.trainer(tmp_path / str(batch), "resnet", compute_loss_func=own_loss, **options))
        runs[-1].train()
    assert len(tiny.losses(runs[0])) == 8
    for run in runs[1:]:
        assert tiny.losses(run) == pytest.approx(tiny.losses(runs[0]), abs=1e-6)
        assert tiny.largest_difference(tiny.weights(run), tiny.weights(runs[0])) < 1e-6


@pytest.mark.parametrize("kind", ["resnet", "test_resnet"])
def test_batch_norm_statistics_stay(kind, tmp_path):
    run = tiny.trainer(tmp_path, kind, max_steps=4, **tiny.BARE)
    before = tiny.weights(run)
    run.train()
    after = tiny.weights(run)
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_the_update(accumulation, tmp_path):
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        calls.append(labels)
        factor = float("nan") if len(calls) == 6 * accumulation else 1.0
        return torch.nn.functional.cross_entropy(outputs["logits"], labels) * factor

    options = {"save_strategy": "epoch", "gradient_accumulation_steps": accumulation}
    run = tiny.trainer(tmp_path, "resnet", compute_loss_func=loss, **options)
    after_step = {}
    run.add_callback(At("on_step_end", lambda state: after_step.update({state.global_step: tiny.weights(run)})))
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 5; stopped before the update, earli"):
        run.train()
    assert tiny.largest_difference(after_step[5], tiny.weights(run)) == 0
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert tiny.largest_difference(after_step[4], tiny.weights(saved)) == 0


def test_users_objective_and_loss(tmp_path):
    def squared_recalls(confusion):
        return (confusion.diagonal() / confusion.sum(1)).square().mean()

    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(outputs.logits.shape)
        return torch.nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.1)

    options = {"objective": squared_recalls, "compute_loss_func": loss, "max_steps": 4, "learning_rate": 0.05}
    run = tiny.trainer(tmp_path, "convnext", **options)
    run.train()
    metrics = run.evaluate()
    recalls = [metrics[f"eval_recall/{name}"] for name in tiny.NAMES]
    assert metrics["eval_psi"] == metrics["eval_selection_score"] == pytest.approx(np.square(recalls).mean())
    assert run.objective.name == "squared_recalls" and seen == [(8, 4)] * 4
    smooth = tiny.trainer(
        tmp_path / "b", "convnext", **{**options, "compute_loss_func": None}, label_smoothing_factor=0.1
    )
    smooth.train()
    assert tiny.losses(smooth) == pytest.approx(tiny.losses(run), abs=1e-6)


@BOTH
def test_a_loss_of_ones_own_sees_logits_and_classes(freeze, tmp_path):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append((outputs["logits"].shape, labels.shape))
        return LogitAdjustedLoss(tiny.TRAIN_COUNTS)(outputs, labels)

    options = {"sampling": "natural", "freeze_backbone": freeze, "max_steps": 2, **tiny.BARE}
    run = tiny.trainer(tmp_path, compute_loss_func=loss, **options)
    run.train()
    assert seen == [((8, 4), (8,))] * 2
    plain = tiny.trainer(tmp_path, **options)
    plain.train()
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(plain)) > 1e-4


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    def loss(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum() * float("nan")

    run = tiny.trainer(tmp_path, sampling="natural", compute_loss_func=loss, **tiny.BARE)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 0"):
        run.train()


def test_batch_norm_stays_as_it_is(tmp_path):
    run = tiny.trainer(tmp_path, "resnet", sampling="natural", max_steps=4, **tiny.BARE)
    before = {name: value for name, value in tiny.weights(run).items() if "running" in name}
    run.train()
    after = tiny.weights(run)
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_latest_training_loss_is_asked_for():
    """That of an evaluation is none: a model in eval mode with nothing drawn."""
    model = torch.nn.Linear(2, 3)
    loss = MixedLoss(SimpleNamespace(freeze_backbone=True, label_smoothing_factor=0.0), None, None)

    def step(value):
        batch = {"input": torch.full((4, 2), value), "labels": torch.tensor([0, 1, 2, 0])}
        return loss(model, batch, None, False)[0]

    expected = F.cross_entropy(model(torch.ones(4, 2)), torch.tensor([0, 1, 2, 0]))
    assert step(1.0).item() == pytest.approx(expected.item())
    loss.require_finite(3)
    model.eval(), step(float("nan"))
    loss.require_finite(3)
    model.train(), step(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 4"):
        loss.require_finite(4)


def test_label_smoothing_beside_a_loss_of_ones_own_is_refused(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing_factor=0.1 has no effect on compute_loss_func, a loss of"):
        tiny.trainer(tmp_path, compute_loss_func=_cross_entropy, label_smoothing_factor=0.1)

"""What a period trains on: pairs, and single samples drawn by weight."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from recorded_batches import LABELS, RANDOM_VIEWS, recorded
from runs import BOTH

from selmix_hf import WeightedSampler, sampling_weights
from selmix_hf.training.pair_loader import DrawPlan, PairLoader, SampleLoader
from selmix_hf.training.state import PairState


@BOTH
def test_beta_min_bounds_the_coefficients_of_the_batches(freeze, tmp_path):
    run = tiny.trainer(tmp_path, beta_min=0.9, freeze_backbone=freeze, **tiny.BARE)
    coefficients, plain_loss = [], run.compute_loss

    def compute_loss(model, inputs, **kwargs):
        coefficients.append(inputs["mixing_coefficient"])
        return plain_loss(model, inputs, **kwargs)

    run.compute_loss = compute_loss
    run.train()
    drawn = torch.cat(coefficients)
    assert len(drawn) == 64 and 0.9 <= float(drawn.min()) < 0.92 and 0.98 < float(drawn.max()) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_in_two_pairs_passes_the_backbone_once_and_counts_twice(workers, tmp_path):
    """Against the same pairs with every sample a row of its own, augmented under its seed."""
    runs, rows = [], {}
    for name in ("reused", "apart"):
        options = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor, "reuse_samples": True}
        run = tiny.trainer(tmp_path / name, "convnext", dataloader_num_workers=workers, **options, **tiny.BARE)
        run.data_collator.reuse = name == "reused"
        rows[name], plain_loss = [], run.compute_loss

        def compute_loss(model, inputs, rows=rows[name], plain_loss=plain_loss, **kwargs):
            rows.append(len(inputs["pixel_values"]))
            return plain_loss(model, inputs, **kwargs)

        run.compute_loss = compute_loss
        run.train()
        runs.append(run)
    assert set(rows["apart"]) == {16} and all(8 <= number <= 16 for number in rows["reused"])
    assert sum(rows["reused"]) < 0.9 * sum(rows["apart"])
    assert tiny.losses(runs[0]) == pytest.approx(tiny.losses(runs[1]), abs=1e-6)
    assert tiny.largest_difference(tiny.weights(runs[0]), tiny.weights(runs[1])) < 1e-6


@BOTH
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_trained_on_is_what_the_sampler_draws(freeze, accumulation, tmp_path):
    """A period is refresh_steps steps of as many samples as the batch size says, none mixed with another."""
    options = {"sampling": "square_root", "freeze_backbone": freeze, "gradient_accumulation_steps": accumulation}
    run = recorded(tiny.trainer(tmp_path, per_device_train_batch_size=8 // accumulation, **options, **tiny.BARE))
    images = run.data_collator.eval_collator(list(run.train_dataset))["pixel_values"]
    inputs = run.passes.features_of(run.train_dataset) if freeze else images
    weights = sampling_weights("square_root", LABELS)
    np.testing.assert_allclose(run.sample_weights, weights)
    run.train()
    sampler = WeightedSampler(weights, 32, seed=run.args.seed)
    index = np.array([*sampler, *sampler])
    assert [step for step, *_ in run.batches] == list(np.repeat(np.arange(8), accumulation))
    assert all(len(labels) == 8 // accumulation for _, labels, _ in run.batches)
    assert torch.cat([labels for _, labels, _ in run.batches]).tolist() == LABELS[index].tolist()
    torch.testing.assert_close(torch.cat([values for *_, values in run.batches]), inputs[index], atol=1e-5, rtol=1e-5)


def test_weights_of_samples_override_the_option(tmp_path):
    """Three samples have a weight, and of a frozen run's two views of each both are drawn."""
    weights = np.zeros(len(LABELS))
    weights[[0, 40, 56]] = 1, 1, 2
    options = {"freeze_backbone": True, "feature_views": 2, "refresh_steps": 8, **RANDOM_VIEWS, **tiny.BARE}
    run = recorded(
        tiny.trainer(tmp_path, "convnext", sample_weights=torch.tensor(weights), sampling="class_balanced", **options)
    )
    run.train()
    views = run.passes.views_of(run.train_dataset)
    values = torch.cat([values for *_, values in run.batches])
    rows = torch.cat([view[[0, 40, 56]] for view in views])
    nearest = torch.cdist(values, rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(nearest.min(1).values.max()) < 1e-5
    assert set(nearest.argmin(1).tolist()) == set(range(6))  # both views of all three
    labels = torch.cat([labels for _, labels, _ in run.batches])
    assert torch.bincount(labels, minlength=4).tolist()[2:] == [0, int((labels == 3).sum())]
    assert [log["largest_repeat"] for log in run.state.log_history if "largest_repeat" in log] == [32.0]


def test_classifier_retraining_is_a_loop_by_hand(tmp_path):
    """cRT in one line: features of the frozen backbone, classes alike, plain SGD on the head."""
    run = tiny.trainer(tmp_path, sampling="class_balanced", freeze_backbone=True, max_steps=20, **tiny.BARE)
    head = torch.nn.Linear(16, 4)
    head.load_state_dict(run.model.classifier[1].state_dict())
    features = run.passes.features_of(run.train_dataset)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    sampler = WeightedSampler(sampling_weights("class_balanced", LABELS), 4 * 8, seed=run.args.seed)
    for _ in range(5):
        for index in np.reshape(list(sampler), (4, 8)):
            optimizer.zero_grad()
            F.cross_entropy(head(features[index]), torch.tensor(LABELS[index])).backward()
            optimizer.step()
    run.train()
    assert tiny.largest_difference(tiny.weights(run.model.classifier[1]), tiny.weights(head)) < 1e-6


def test_class_balance_lifts_the_rare_class(tmp_path):
    """The same steps from the same start: samples as they are leave the rare classes behind."""
    options = {"freeze_backbone": True, "max_steps": 200, "refresh_steps": 100, "learning_rate": 0.05, **tiny.BARE}
    recall = {}
    for sampling in ("natural", "class_balanced"):
        run = tiny.trainer(tmp_path, "convnext", sampling=sampling, **options)
        run.train()
        recall[sampling] = run.evaluate(tiny.images((40, 40, 40, 40), seed=2))["eval_recall/grey"]
    assert recall["class_balanced"] > recall["natural"] + 0.1


def plan_of(batch, accumulation, processes, refresh_steps):
    args = SimpleNamespace(gradient_accumulation_steps=accumulation, world_size=processes, refresh_steps=refresh_steps)
    return DrawPlan(args, 0, PairState, lambda: batch)


def test_how_much_is_drawn():
    plan = plan_of(4, 3, 2, 5)
    assert (plan.a_step, plan.a_period) == (24, 120)


def test_the_repeats_of_a_period_by_hand():
    """40 draws, of which the third of three samples gets half; 40 pairs, of which class 1, with 5 samples, gets 10
    firsts and 30 seconds."""
    plan = plan_of(4, 1, 2, 5)
    assert SampleLoader(range(3), np.array([1.0, 1.0, 2.0]), plan).largest_repeat() == 20
    pairs = PairLoader(SimpleNamespace(train_labels=np.repeat([0, 1], [30, 5]), num_classes=2), plan)
    probability = torch.tensor([[0.2, 0.55], [0.05, 0.2]])
    assert pairs.largest_repeat(probability, None) == pytest.approx((10 + 30) / 5)
    assert pairs.largest_repeat(probability, np.array([40, 10])) == pytest.approx(3)
    assert pairs.second_counts(None) is None

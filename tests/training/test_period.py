"""Periods of a run: each draws from its own P, and a look at the gain set leaves no trace in random states."""

import random

import numpy as np
import pytest
import tiny
import torch

from selmix_hf import ClassIndex, PairSampler


def test_two_trainings_in_a_row_go_on_from_each_other(tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=True, max_steps=4, **tiny.BARE)
    run.train()
    first = tiny.weights(run)
    run.train()
    assert tiny.largest_difference(first, tiny.weights(run)) > 1e-4
    assert [log["step"] for log in run.state.log_history if "gain_set_psi" in log] == [0]


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (2, 2)])
def test_every_period_trains_on_its_own_p(workers, accumulation, tmp_path):
    """Labels and coefficients of all batches are those that P of the batch's own period gives."""
    options = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation, "max_steps": 12}
    options |= {"per_device_train_batch_size": 8 // accumulation, "inverse_temperature": "auto", "target_share": 0.5}
    if workers:
        options["dataloader_prefetch_factor"] = 8
    run = tiny.trainer(tmp_path, "convnext", **options, **tiny.BARE)
    batches, probabilities = [], {}
    plain_loss = run.compute_loss

    def compute_loss(model, inputs, **kwargs):
        probabilities[run.pair_state.period] = run.pair_state.probability
        batches.append((inputs["labels"], inputs["mixing_coefficient"]))
        return plain_loss(model, inputs, **kwargs)

    run.compute_loss = compute_loss
    run.train()
    labels, coefficients = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(probabilities) == [0, 1, 2] and not torch.equal(probabilities[0], probabilities[1])
    train_labels = np.array(run.train_dataset["label"])
    index = ClassIndex(train_labels, 4)
    for period in range(3):
        sampler = PairSampler(index, index, lambda p=period: probabilities[p], 32, lambda p=period: p, 0.6, seed=42)
        first, _, coefficient, *_ = sampler.draw()
        mine = slice(32 * period, 32 * period + 32)
        assert labels[mine].tolist() == train_labels[first].tolist()
        assert torch.equal(coefficients[mine], torch.tensor(coefficient, dtype=torch.float32))


@pytest.mark.parametrize(("freeze", "workers"), [(False, 0), (True, 0), (False, 1)])
def test_a_refresh_leaves_the_global_random_state_alone(freeze, workers, tmp_path):
    transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.random_view}
    options = {"dataloader_num_workers": workers, "freeze_backbone": freeze, "max_steps": 8}
    run = tiny.trainer(tmp_path, "convnext", **transforms, **options)
    states, plain_refresh, plain_start = [], run.periods.refresh, run.periods.start_run

    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    def between(function):
        before = state()
        function()
        states.append(before == state())

    run.periods.refresh, run.periods.start_run = (lambda: between(plain_refresh)), (lambda: between(plain_start))
    run.train()
    assert states == [True, True, True]

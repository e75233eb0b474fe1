"""What a period trains on: pairs, and single samples drawn by weight."""

import pytest
import tiny
import torch
from runs import BOTH


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

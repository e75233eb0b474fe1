"""MixMatch's parts and its loss by hand."""

import numpy as np
import pytest
import torch
from semi_supervised_run import make
from semi_supervised_step import LOG_PRIOR, logits, step_of

from selmix_hf.training.semi_supervised import mixmatch
from selmix_hf.training.semi_supervised.mixmatch import brier_loss, guess_labels, mixup


def test_mixmatch_parts_by_hand():
    views = torch.stack([logits([0.8, 0.2]), logits([0.4, 0.6])])  # mean .6, .4
    guess = guess_labels(views, temperature=0.5)  # .36 and .16 of .52
    assert guess[0].tolist() == pytest.approx([9 / 13, 4 / 13]) and not guess.requires_grad
    assert guess_labels(views, temperature=1)[0].tolist() == pytest.approx([0.6, 0.4])
    rows, order = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0])
    assert mixup(rows, torch.tensor([0.25, 0.9]), order).flatten().tolist() == pytest.approx([0.75, 0.25, 0.1, 0.9])
    assert brier_loss(logits([0.8, 0.2]), torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.09)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixmatch_with_a_known_order(smoothing, tmp_path, monkeypatch):
    """Every share .75, every row mixed with that of the opposite end: 8 labelled and 2 x 16 unlabelled rows. Where the
    first of a mix is labelled its target is smoothed."""
    drawn = torch.full((40,), 0.25), torch.arange(39, -1, -1)
    monkeypatch.setattr(mixmatch, "draw_mixing", lambda num_rows, alpha, generator: drawn)
    trainer = make(tmp_path, "mixmatch", rampup_steps=10, label_smoothing_factor=smoothing)
    labelled, labels, first, second = step_of(trainer)
    trainer.state.global_step = 2
    of = lambda pixels: trainer.model(pixel_values=pixels).logits  # noqa: E731
    guess = ((of(first).softmax(1) + of(second).softmax(1)) / 2) ** 2
    guess = (guess / guess.sum(1, keepdim=True)).detach()
    pixels, targets = torch.cat([labelled, first, second]), torch.cat([torch.eye(4)[labels], guess, guess])
    pixels, targets = (0.75 * x + 0.25 * x.flip(0) for x in (pixels, targets))
    supervised = (
        -(((1 - smoothing) * targets[:8] + smoothing / 4) * (of(pixels[:8]) + LOG_PRIOR).log_softmax(1)).sum() / 8
    )
    squares = (targets[8:] - of(pixels[8:]).softmax(1)) ** 2
    expected = supervised + 75 * 0.2 * squares.sum() / (32 * 4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixmatch_draws_a_permutation_and_shares_of_its_beta():
    share, order = mixmatch.draw_mixing(4000, 0.75, np.random.default_rng(0))
    assert share.dtype == torch.float32 and sorted(order.tolist()) == list(range(4000))
    # of Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert (share.mean().item(), share.var().item()) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.1, abs=0.005))

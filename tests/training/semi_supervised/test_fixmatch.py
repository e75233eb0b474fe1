"""FixMatch's loss by hand."""

from math import log

import pytest
import torch.nn.functional as F
from semi_supervised_run import make
from semi_supervised_step import LOG_PRIOR, logits, step_of

from selmix_hf.training.semi_supervised.fixmatch import pseudo_label_loss


def test_pseudo_label_loss_by_hand():
    """Only the first of two samples is sure enough, and its strong view is undecided: log(2) / 2."""
    weak, strong = logits([0.97, 0.03], [0.6, 0.4]), logits([0.5, 0.5], [0.2, 0.8])
    loss, kept = pseudo_label_loss(weak, strong, 0.95)
    assert loss.item() == pytest.approx(log(2) / 2) and kept.item() == 0.5
    loss.backward()
    assert weak.grad is None and strong.grad.tolist() == [[-0.25, 0.25], [0, 0]]
    both, _ = pseudo_label_loss(weak, strong, 0.6)
    assert both.item() == pytest.approx((log(2) - log(0.2)) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_fixmatch_with_logit_adjustment(smoothing, tmp_path):
    """The labelled logits are shifted by log pi; pseudo-label and unlabelled loss are those of plain logits. True
    labels alone are smoothed."""
    trainer = make(tmp_path, threshold=0.27, unlabeled_weight=0.5, label_smoothing_factor=smoothing)
    labelled, labels, weak, strong = step_of(trainer)
    of = lambda pixels: trainer.model(pixel_values=pixels).logits  # noqa: E731
    confidence, target = of(weak).softmax(1).max(1)
    assert 0 < (confidence >= 0.27).sum() < len(weak) == 16
    unlabelled = F.cross_entropy(of(strong), target, reduction="none")[confidence >= 0.27].sum() / 16
    target_NK = (1 - smoothing) * F.one_hot(labels, 4) + smoothing / 4
    supervised = -(target_NK * (of(labelled) + LOG_PRIOR).log_softmax(1)).sum() / len(labels)
    expected = supervised + 0.5 * unlabelled
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)

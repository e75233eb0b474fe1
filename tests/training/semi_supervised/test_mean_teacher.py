"""Mean Teacher's loss by hand."""

import copy
from math import exp

import pytest
import torch
import torch.nn.functional as F
from semi_supervised_run import make
from semi_supervised_step import logits, step_of

from selmix_hf.training.semi_supervised.mean_teacher import consistency_loss


def test_consistency_loss_by_hand():
    """((.8 - .6)^2 + (.2 - .4)^2 + 0 + 0) / 4."""
    student, teacher = logits([0.8, 0.2], [0.5, 0.5]), logits([0.6, 0.4], [0.5, 0.5])
    loss = consistency_loss(student, teacher)
    assert loss.item() == pytest.approx(0.02)
    loss.backward()
    assert teacher.grad is None and student.grad is not None


def test_mean_teacher_with_a_teacher_of_its_own_weights(tmp_path):
    trainer = make(tmp_path, "mean_teacher", loss="cross_entropy", rampup_steps=10, label_smoothing_factor=0.2)
    labelled, labels, first, second = step_of(trainer)
    teacher = copy.deepcopy(trainer.model)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trainer.state.global_step = 5
    of = lambda model, pixels: model(pixel_values=pixels).logits  # noqa: E731
    gap = of(trainer.model, first).softmax(1) - of(teacher, second).softmax(1)
    target_NK = 0.8 * F.one_hot(labels, 4) + 0.05
    supervised = -(target_NK * of(trainer.model, labelled).log_softmax(1)).sum() / len(labels)
    expected = supervised + 100 * exp(-5 * 0.25) * (gap**2).sum() / (16 * 4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)

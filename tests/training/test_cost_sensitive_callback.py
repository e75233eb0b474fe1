"""A cost-sensitive loss in a run."""

import pytest
import tiny
import torch

from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss
from selmix_hf.method.objective_names import get_objective
from selmix_hf.training.cost_sensitive_callback import CostSensitiveCallback


def test_a_cost_sensitive_run_does_not_resume(tmp_path):
    def make(**options):
        loss = CostSensitiveLoss(get_objective("min_recall"), tiny.TRAIN_COUNTS)
        callbacks = [CostSensitiveCallback(loss)]
        given = {"sampling": "natural", "compute_loss_func": loss, "callbacks": callbacks, **tiny.BARE}
        return loss, tiny.trainer(tmp_path, **given | {"save_strategy": "epoch"})

    loss, trainer = make()
    trainer.train()
    assert not torch.equal(loss.multipliers["min_recall"], torch.full((4,), 0.25).double())  # it looked
    with pytest.raises(ValueError, match="does not resume: its multipliers are in no checkpoint"):
        make()[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

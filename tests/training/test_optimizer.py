"""Parameter groups: the head's rate, the backbone's, weight decay; optimizers that take none."""

import pytest
import tiny
import torch

from selmix_hf.models.head import HeadError


def test_the_head_has_a_learning_rate_of_its_own(tmp_path):
    options = {"learning_rate": 0.06, "backbone_learning_rate": None, "weight_decay": 0.1}
    run = tiny.trainer(tmp_path, "resnet", max_steps=2, refresh_steps=2, **options, **tiny.BARE)
    run.train()
    groups = run.optimizer.param_groups
    head = {id(parameter) for parameter in run.head.parameters()}
    of_head = [{id(p) for p in group["params"]} <= head for group in groups]
    assert of_head == sorted(of_head, reverse=True) and of_head[0] and not of_head[-1]
    assert sum(len(group["params"]) for group in groups) == len(list(run.model.parameters()))
    for group, is_head in zip(groups, of_head, strict=True):
        assert group["lr"] == pytest.approx(0.06 if is_head else 0.002)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert [log["learning_rate"] for log in run.state.log_history if "loss" in log] == [0.06, 0.06]
    assert isinstance(run.optimizer.optimizer, torch.optim.SGD)


def test_optimizers_that_make_their_own_groups_are_refused(tmp_path):
    run = tiny.trainer(tmp_path)
    run.optimizer_cls_and_kwargs = (torch.optim.SGD, {"params": [], "lr": 0.1})
    with pytest.raises(ValueError, match="makes its own parameter groups: use 'sgd' or 'adamw_torch'"):
        run.create_optimizer()


def test_a_model_without_a_weight_to_train(tmp_path):
    run = tiny.trainer(tmp_path, tiny.model().requires_grad_(False))
    with pytest.raises(
        HeadError, match=r"no weight requires a gradient.*model.requires_grad_\(True\), or set freeze_b"
    ):
        run.train()

"""Parameter groups: the head's rate, the backbone's, weight decay; optimizers that take none."""

import pytest
import tiny
import torch
from transformers import TrainingArguments

from selmix_hf import SelMixTrainer, Stage1Trainer
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"optim_args": "momentum=0.9,momentun=0.9"},
            "optim_args has 'momentun=0.9', which has no effect with optim='sgd': .* 'sgd' takes momentum, dampening",
        ),
        ({"optim_args": "weight_decay=0.1"}, "optim_args has 'weight_decay=0.1', .* weight_decay is an option of its"),
        (
            {"optim_args": "momentum=0.9", "optim": "adamw_torch"},
            "'momentum=0.9', which has no effect with optim='ada",
        ),
        ({"optim_args": "momentum: 0.9"}, "optim_args must be 'name=value,name=value', found 'momentum:0.9' in"),
        ({"adam_beta1": 0.8}, "adam_beta1=0.8 has no effect with optim='sgd': leave it out"),
        ({"adam_epsilon": 1e-6, "optim": "adafactor"}, "adam_epsilon=1e-06 has no effect with optim='adafactor'"),
    ],
)
def test_what_the_optimizer_does_not_take_is_refused(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        tiny.trainer(tmp_path, **options)
    args = TrainingArguments(str(tmp_path), use_cpu=True, **{"optim": "sgd", **options})
    own = {"train_transform": tiny.to_tensor, "eval_transform": tiny.to_tensor}
    with pytest.raises(ValueError, match=sentence):
        Stage1Trainer(tiny.model(), args, train_dataset=tiny.images(), **own)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"optim_args": "momentum=0.9, nesterov=true"}, {"momentum": 0.9, "nesterov": True}),
        ({"optim": "adamw_torch", "adam_beta1": 0.8, "adam_epsilon": 1e-6}, {"betas": (0.8, 0.999), "eps": 1e-6}),
        (
            {"adam_beta1": 0.8, "optimizer_cls_and_kwargs": (torch.optim.Adam, {"betas": (0.5, 0.9)})},
            {"betas": (0.5, 0.9)},
        ),
    ],
)
def test_what_the_optimizer_takes_reaches_it(options, taken, tmp_path):
    own = {name: options.pop(name) for name in ["optimizer_cls_and_kwargs"] if name in options}
    args = tiny.config(tmp_path, **options)
    data = {"train_dataset": tiny.images(), "gain_dataset": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    run = SelMixTrainer(tiny.model(), args, processing_class=tiny.processor(), **data, **own)
    assert taken.items() <= run.create_optimizer().param_groups[0].items()

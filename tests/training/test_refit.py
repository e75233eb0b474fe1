"""The head is refitted on both sets before a run; the two sets are joined."""

import copy

import numpy as np
import pytest
import tiny
import torch
from transformers import TrainerCallback

from selmix_hf import SelMixConfig
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.training.refit import with_gain_set


@pytest.mark.parametrize("frozen", [True, False])
def test_refit_is_the_head_of_both_sets(tmp_path, frozen):
    model = tiny.model("resnet")
    by_hand = tiny.trainer(tmp_path / "a", copy.deepcopy(model), freeze_backbone=True)
    train, gain = by_hand.passes.features_of(by_hand.train_dataset), by_hand.passes.features_of(by_hand.gain_dataset)
    features = torch.cat([train, gain])
    labels = torch.as_tensor(np.concatenate([by_hand.sets.train_labels, by_hand.sets.gain_labels]))
    weight, bias = retrain_head(
        features,
        labels,
        4,
        LogitAdjustedLoss([30 + 9, 15 + 8, 8 + 7, 4 + 9]),
        start=(by_hand.head.weight, by_hand.head.bias),
        steps=2000,
        batch_size=128,
        learning_rate=0.5 / float(features.square().sum(1).mean()),
        seed=by_hand.args.seed,
    )
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append((trainer.head.weight.clone(), trainer.head.bias.clone()))

    options = {"gain_set_use": "refit", "freeze_backbone": frozen, "callbacks": [Look()], **tiny.BARE}
    trainer = tiny.trainer(tmp_path / "b", copy.deepcopy(model), **options)
    trainer.train()
    torch.testing.assert_close(seen[0][0], weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen[0][1], bias, atol=1e-5, rtol=1e-4)
    assert not torch.equal(trainer.head.weight, weight)  # and it was trained then


def test_what_is_refitted_is_the_start_of_the_run(tmp_path):
    trainer = tiny.trainer(tmp_path, gain_set_use="refit", freeze_backbone=True, learning_rate=1e-9)
    before = trainer.evaluate()
    trainer.train()
    first = next(log for log in trainer.state.log_history if "eval_mean_recall" in log and log["step"] == 0)
    assert first["eval_loss"] != pytest.approx(before["eval_loss"])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(first["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("use", ["refit", "train"])
def test_resume_does_not_refit_again(tmp_path, use):
    options = {"gain_set_use": use, "freeze_backbone": True, "save_strategy": "epoch", "save_total_limit": 5}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "max_steps": 8}
    whole = tiny.trainer(tmp_path / "whole", tiny.model("resnet"), **options)
    whole.train()
    for step in (0, 4):  # the start of the run is saved after the refit
        again = tiny.trainer(tmp_path / "whole", tiny.model("resnet"), **options)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0
    other = tiny.trainer(tmp_path / "whole", tiny.model("resnet"), **options | {"gain_set_use": "steer"})
    with pytest.raises(ValueError, match="gain_set_use"):
        other.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))


def test_what_cannot_be_joined_gets_a_sentence(tmp_path):
    train, gain = tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1)
    with pytest.raises(TypeError, match="found list as gain_dataset. Give image columns as they are"):
        with_gain_set(train, list(gain))
    with pytest.raises(TypeError, match="found one with a transform of its own as train_dataset"):
        with_gain_set(train.with_transform(lambda rows: rows), gain)
    with pytest.raises(ValueError, match="sets that train together need the same columns"):
        with_gain_set(train, gain.add_column("more", range(len(gain))))
    with pytest.raises(ValueError, match="gain_set_use must be one of steer, refit, train, found 'both'"):
        SelMixConfig(str(tmp_path), gain_set_use="both", use_cpu=True)


def test_a_head_without_a_bias_is_refitted_without_one(tmp_path):
    model = tiny.model("resnet")
    model.classifier[1] = torch.nn.Linear(16, 4, bias=False)
    trainer = tiny.trainer(tmp_path, model, freeze_backbone=True, **tiny.BARE)
    features, labels = trainer.passes.features_of(trainer.train_dataset), torch.as_tensor(trainer.sets.train_labels)
    start = trainer.head.weight, torch.zeros(4)
    weight, bias = retrain_head(features, labels, 4, start=start, fit_bias=False, steps=20)
    assert bias.tolist() == [0] * 4 and not torch.equal(weight, start[0])
    trainer = tiny.trainer(tmp_path, model, freeze_backbone=True, gain_set_use="refit", **tiny.BARE)
    trainer.train()
    assert trainer.head.bias is None

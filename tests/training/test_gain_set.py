"""The gain set as training data: refitting the head, drawing pairs from it."""

import copy
import logging

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.utils.logging import get_logger

from selmix_hf import SelMixConfig
from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.models.head_search import find_head
from selmix_hf.training.class_bias import add_class_bias
from selmix_hf.training.cross_fit import cross_fit, halves_of
from selmix_hf.training.refit import with_gain_set


@pytest.mark.parametrize("kind", ["vit", "deit-distilled", "resnet"])
def test_assigned_weights_are_the_heads(kind):
    model = tiny.model(kind)
    head = find_head(model, {"pixel_values": torch.randn(2, 3, tiny.SIDE, tiny.SIDE)})
    weight, bias = torch.randn(4, head.num_features), torch.randn(4)
    objects = list(head.parameters())
    head.assign(weight, bias)
    torch.testing.assert_close(head.weight, weight)
    torch.testing.assert_close(head.bias, bias)
    assert all(a is b for a, b in zip(objects, head.parameters(), strict=True))
    with head.tap() as tapped, torch.no_grad():
        logits = model(pixel_values=torch.randn(3, 3, tiny.SIDE, tiny.SIDE)).logits
    torch.testing.assert_close(logits, tapped.features @ weight.T + bias, atol=1e-5, rtol=1e-4)


def test_averaged_layers_of_which_one_has_a_bias_take_one():
    model = tiny.model("deit-distilled")
    model.distillation_classifier = torch.nn.Linear(model.distillation_classifier.in_features, 4, bias=False)
    head = find_head(model, {"pixel_values": torch.randn(2, 3, tiny.SIDE, tiny.SIDE)})
    weight, bias = torch.randn(4, head.num_features), torch.randn(4)
    head.assign(weight, bias)
    torch.testing.assert_close(head.bias, bias)
    features = torch.randn(3, head.num_features)
    torch.testing.assert_close(head.logits(features), features @ weight.T + bias, atol=1e-5, rtol=1e-4)


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


def test_pairs_come_from_both_sets(tmp_path):
    trainer = tiny.trainer(tmp_path, gain_set_use="train", freeze_backbone=True, **tiny.BARE)
    assert len(trainer.train_dataset) == sum(tiny.TRAIN_COUNTS) + sum(tiny.GAIN_COUNTS)
    assert trainer.train_counts.tolist() == [30, 15, 8, 4]  # which head, tail and reports go by
    drawn = set()
    take = trainer.store_features

    def store():
        stored = take()
        inner = stored.take
        stored.take = lambda rows: drawn.update(rows if not isinstance(rows, slice) else ()) or inner(rows)
        return stored

    trainer.store_features = store
    trainer.train()
    assert drawn & set(range(sum(tiny.TRAIN_COUNTS))) and max(drawn) >= sum(tiny.TRAIN_COUNTS)


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


def test_it_says_that_numbers_are_optimistic(tmp_path, caplog):
    get_logger("selmix_hf").warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        tiny.trainer(tmp_path, gain_set_use="refit", **tiny.BARE)
    assert "numbers on gain_dataset are optimistic" in caplog.text


def test_halves_have_half_of_each_class():
    labels = np.array([2, 0, 0, 2, 1, 1, 0, 2, 2])
    first, second = halves_of(labels)
    assert sorted([*first, *second]) == list(range(9))
    for rows, sizes in ((first, [2, 1, 2]), (second, [1, 1, 2])):
        assert np.bincount(labels[rows]).tolist() == sizes
    with pytest.raises(ValueError, match="two halves of each class need two gain images a class; class 1 has one"):
        halves_of(np.array([0, 0, 1]))


def test_cross_fitted_heads_steer_by_what_they_were_not_trained_on(tmp_path):
    start, seen = tiny.model("resnet"), []

    def make(train, gain, half):
        options = {"train_dataset": train, "gain_dataset": gain, "freeze_backbone": True, **tiny.BARE}
        seen.append((tiny.trainer(tmp_path / str(half), copy.deepcopy(start), **options), train, gain))
        return seen[-1][0]

    train, gain = tiny.images(), tiny.images((4, 6, 8, 4), seed=1)
    keyed = gain.add_column("row", range(len(gain)))
    result = cross_fit(make, train.add_column("row", [-1] * len(train)), keyed)
    (first, *sets), (second, *others) = seen
    assert result is first
    trained, steering = ({row for row in part["row"] if row >= 0} for part in sets)
    assert not trained & steering and len(trained) == len(steering) == 11
    assert [{row for row in part["row"] if row >= 0} for part in others] == [steering, trained]
    apart = tiny.trainer(tmp_path / "a", copy.deepcopy(start), train_dataset=sets[0], gain_dataset=sets[1],
                         freeze_backbone=True, **tiny.BARE)  # fmt: skip
    apart.train()
    torch.testing.assert_close(first.head.weight, (apart.head.weight + second.head.weight) / 2)
    torch.testing.assert_close(first.head.bias, (apart.head.bias + second.head.bias) / 2)


def test_a_class_bias_follows_from_scores_of_the_head_that_a_half_steered(tmp_path):
    start, seen = tiny.model("resnet"), []

    def make(train, gain, half):
        options = {"train_dataset": train, "gain_dataset": gain, "freeze_backbone": True, "gain_set_use": "refit"}
        folder = tmp_path / f"{half}-{len(seen)}"
        seen.append(tiny.trainer(folder, copy.deepcopy(start), **options, **tiny.BARE))
        return seen[-1]

    train, gain = tiny.images(), tiny.images((4, 6, 8, 4), seed=1)
    plain = cross_fit(make, train, gain)
    biased = cross_fit(make, train, gain, bias_share=0.5)
    alone = [make(trainer.train_dataset, trainer.gain_dataset, i) for i, trainer in enumerate(seen[:2])]
    scores = []
    for trainer in alone:
        trainer.train()
        scores.append(trainer.passes.features_of(trainer.gain_dataset) @ trainer.head.weight.T + trainer.head.bias)
    labels = torch.as_tensor(np.concatenate([trainer.sets.gain_labels for trainer in alone]))
    bias = tune_class_bias(torch.cat(scores), labels, plain.objective)
    assert bias.abs().max() > 0.01
    torch.testing.assert_close(biased.head.weight, plain.head.weight)
    torch.testing.assert_close(biased.head.bias, plain.head.bias + bias / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen, share", [(True, 1.0), (False, 0.5)])
def test_a_class_bias_is_in_the_head_that_is_saved(tmp_path, frozen, share):
    trainer = tiny.trainer(tmp_path, freeze_backbone=frozen, objective="min_recall", **tiny.BARE)
    trainer.train()
    before, weight, own = trainer.evaluate()["eval_min_recall"], trainer.head.weight.clone(), trainer.head.bias.clone()
    scores = trainer.passes.features_of(trainer.gain_dataset) @ weight.T + own
    bias = tune_class_bias(scores, torch.as_tensor(trainer.sets.gain_labels), trainer.objective)
    assert bias.abs().max() > 0.01 and trainer.evaluations.shown
    add_class_bias(trainer, share)
    assert not trainer.evaluations.shown  # a card would show numbers of other weights
    torch.testing.assert_close(trainer.head.bias, own + share * bias, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trainer.head.weight, weight)
    if share == 1:
        assert trainer.evaluate()["eval_min_recall"] > before
    trainer.save_model(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert any(torch.equal(tensor, trainer.head.bias) for tensor in saved.values())


def test_a_card_keeps_the_start_beside_a_class_bias(tmp_path):
    trainer, test = (
        tiny.trainer(tmp_path, freeze_backbone=True, confusion="hard", **tiny.BARE),
        tiny.images((5, 5, 5, 5), seed=3),
    )
    trainer.evaluate(test, metric_key_prefix="test")
    trainer.train()
    before = trainer.evaluate(test, metric_key_prefix="test")["test_mean_recall"]
    add_class_bias(trainer)
    assert [logs["step"] for logs in trainer.evaluations.shown] == [0]
    after = trainer.evaluate(test, metric_key_prefix="test")["test_mean_recall"]
    assert after != before
    trainer.create_model_card()
    row = next(line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| mean recall"))
    assert f"{after:.3f}" in row and f"{before:.3f}" not in row and row.count("0.") == 3  # before, after, change


def test_a_class_bias_needs_a_bias(tmp_path):
    made = []

    def make(train, gain, half):
        model = tiny.model("resnet")
        model.classifier[1] = torch.nn.Linear(16, 4, bias=False)
        made.append(tiny.trainer(tmp_path, model, train_dataset=train, gain_dataset=gain, freeze_backbone=True))
        return made[-1]

    train, gain = tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1)
    with pytest.raises(ValueError, match="this head has none"):
        add_class_bias(make(train, gain, 0))
    with pytest.raises(ValueError, match="this head has none"):
        cross_fit(make, train, gain, bias_share=0.5)
    assert len(made) == 2 and made[1].state.global_step == 0  # said before it trains


def test_cross_fitting_needs_a_model_for_each_run(tmp_path):
    model = tiny.model("resnet")
    with pytest.raises(ValueError, match="both runs got one model"):
        cross_fit(lambda train, gain, half: tiny.trainer(tmp_path / str(half), model, train_dataset=train,
                                                         gain_dataset=gain, freeze_backbone=True, **tiny.BARE),
                  tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1))  # fmt: skip


def test_cross_fitting_is_for_heads(tmp_path):
    with pytest.raises(ValueError, match="set freeze_backbone=True"):
        cross_fit(lambda train, gain, half: tiny.trainer(tmp_path, train_dataset=train, gain_dataset=gain),
                  tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1))  # fmt: skip


def test_a_head_without_a_bias_is_refitted_without_one(tmp_path):
    model = tiny.model("resnet")
    model.classifier[1] = torch.nn.Linear(16, 4, bias=False)
    trainer = tiny.trainer(tmp_path, model, freeze_backbone=True, **tiny.BARE)
    features, labels = trainer.passes.features_of(trainer.train_dataset), torch.as_tensor(trainer.sets.train_labels)
    start = trainer.head.weight, torch.zeros(4)
    weight, bias = retrain_head(features, labels, 4, start=start, fit_bias=False, steps=20)
    assert bias.tolist() == [0] * 4 and not torch.equal(weight, start[0])
    trainer.args.gain_set_use = "refit"
    trainer.train()
    assert trainer.head.bias is None

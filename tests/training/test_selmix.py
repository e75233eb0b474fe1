"""SelMixTrainer from end to end, and the traps of Trainer and accelerate that it has to avoid."""

import json
import logging

import numpy as np
import pytest
import tiny
import torch
from runs import BOTH, LEARN, At
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "frozen"])
def finished(request, tmp_path_factory):
    """A finished run, with what evaluate said of a test set before, during and after it."""
    test, seen = tiny.images((6, 6, 6, 6), seed=2), {}
    run = tiny.trainer(tmp_path_factory.mktemp("run"), "convnext", freeze_backbone=request.param, **LEARN)
    run.seen, run.test = seen, test

    def look(state):
        if state.global_step in (3, 9):
            seen[state.global_step] = run.evaluate(test)

    run.add_callback(At("on_step_end", look))
    seen["before"] = run.evaluate(test, metric_key_prefix="test")
    run.start_weights = tiny.weights(run)
    run.train()
    seen["after"] = run.evaluate(test, metric_key_prefix="test")
    return run


# --- from end to end ---------------------------------------------------------------------------------------------


def test_training_raises_the_objective_on_the_gain_set(finished):
    logs = [
        log for log in finished.state.log_history if log["step"] not in finished.seen
    ]  # those looked at a test set
    scores = [log["eval_selection_score"] for log in logs if "eval_selection_score" in log]
    assert finished.evaluate()["eval_mean_recall"] == max(scores) > scores[0] + 0.2


def test_evaluate_takes_raw_images_at_any_time(finished):
    assert {"before", 3, 9, "after"} <= finished.seen.keys()
    pixels = torch.stack([tiny.to_tensor(image) for image in finished.test["image"]])
    with torch.no_grad():
        predicted = finished.model.eval()(pixel_values=pixels).logits.argmax(1).numpy()
    right = predicted == np.array(finished.test["label"])
    after = finished.seen["after"]
    assert after["test_accuracy"] == pytest.approx(right.mean())
    for k, name in enumerate(tiny.NAMES):
        assert after[f"test_recall/{name}"] == pytest.approx(right[6 * k : 6 * k + 6].mean())
    assert finished.seen["before"]["test_loss"] != after["test_loss"]


def test_metric_names(finished):
    expected = "loss psi selection_score accuracy mean_recall min_recall worst_class g_mean h_mean macro_f1 "
    expected += "balanced_macro_f1 "
    expected += "smallest_coverage head_recall tail_recall min_head_tail_recall medium_recall few_recall "
    expected += "worst_share_recall worst_share_recall_low worst_share_recall_high zero_recall_classes "
    expected += "min_recall_low min_recall_high runtime samples_per_second steps_per_second "
    expected += " ".join(f"{kind}/{name}" for kind in ("recall", "recall_low", "recall_high") for name in tiny.NAMES)
    assert {f"test_{name}" for name in expected.split()} == finished.seen["after"].keys() - {"epoch"}
    worst = finished.seen["after"]["test_worst_class"]
    assert finished.seen["after"][f"test_recall/{worst}"] == finished.seen["after"]["test_min_recall"]


def test_a_look_at_the_gain_set_is_logged_at_the_start_of_every_period(finished):
    refreshes = [log for log in finished.state.log_history if "gain_set_psi" in log]
    assert [log["step"] for log in refreshes] == [0, 4, 8, 12, 16, 20]
    evaluations = {log["step"]: log for log in finished.state.log_history if "eval_psi" in log}
    for log in refreshes:
        assert log["gain_set_psi"] == evaluations[log["step"]]["eval_psi"]
        assert log["gain_set_worst_class"] in tiny.NAMES
        assert 1 <= log["effective_pairs"] <= 16
        assert log["largest_repeat"] > 0 and np.isfinite(log["largest_gain"])


def test_training_reloads_offline_as_any_model_of_transformers(finished, tmp_path):
    finished.save_model(str(tmp_path))
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert tiny.largest_difference(tiny.weights(finished), tiny.weights(model)) == 0
    assert list(model.config.id2label.values()) == list(tiny.NAMES)
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(finished.test["image"][:], return_tensors="pt")[
        "pixel_values"
    ]
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits
        assert torch.equal(logits, finished.model.eval()(pixel_values=pixels).logits)
    answers = pipeline("image-classification", str(tmp_path))(finished.test["image"][0], top_k=4)
    for answer in answers:
        k = tiny.NAMES.index(answer["label"])
        assert answer["score"] == pytest.approx(float(logits[0].softmax(0)[k]), abs=1e-5)


def test_freezing_trains_the_head_alone(finished):
    after, head = tiny.weights(finished), tuple(finished.head.names)
    moved = {name for name in after if not torch.equal(after[name], finished.start_weights[name])}
    assert {name for name in moved if name.startswith(head)} == {"classifier.weight", "classifier.bias"}
    assert bool({name for name in moved if not name.startswith(head)}) is not finished.args.freeze_backbone
    assert "forward" not in vars(finished.model)


def test_timm_model_reloads_offline(tmp_path):
    model = tiny.model("test_convnext")
    run = tiny.trainer(tmp_path / "run", model, max_steps=4, freeze_backbone=True)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(loaded)) == 0
    image = tiny.images()[0]["image"]
    answers = pipeline("image-classification", str(tmp_path / "saved"))(image, top_k=4)
    with torch.no_grad():
        pixels = run.processing_class(image, return_tensors="pt")["pixel_values"]
        scores = run.model.eval()(pixel_values=pixels).logits[0].softmax(0)
    for answer in answers:
        assert answer["score"] == pytest.approx(float(scores[tiny.NAMES.index(answer["label"])]), abs=1e-5)


@BOTH
def test_a_run_that_only_makes_it_worse_returns_the_start(freeze, tmp_path):
    good = tiny.trainer(tmp_path / "good", "convnext", freeze_backbone=True, **LEARN)
    good.train()
    start = tiny.weights(good)
    options = {**LEARN, "learning_rate": 100.0, "max_steps": 8, "freeze_backbone": freeze}
    run = tiny.trainer(tmp_path / "worse", good.model.requires_grad_(True), **options)
    run.train()
    scores = [log["eval_selection_score"] for log in run.state.log_history if "eval_selection_score" in log]
    assert len(scores) == 3 and max(scores[1:]) < scores[0]
    assert run.state.best_model_checkpoint.endswith("checkpoint-0")
    assert tiny.largest_difference(start, tiny.weights(run)) == 0


def test_the_best_checkpoint_is_returned(tmp_path):
    run = tiny.trainer(tmp_path, "convnext", freeze_backbone=True, **{**LEARN, "learning_rate": 0.3})
    run.train()
    scores = {log["step"]: log["eval_selection_score"] for log in run.state.log_history if "eval_psi" in log}
    best = max(scores, key=scores.get)
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert run.evaluate()["eval_selection_score"] == scores[best]


def test_frozen_run_equals_the_whole_one_with_a_still_backbone(tmp_path):
    """Pairs, losses and weights are the same whether the backbone runs every step or its features are stored."""
    full = tiny.images((20, 20, 20, 20), seed=1)  # a class with fewer would be filled up where features are stored
    options = {"backbone_learning_rate": 0.0, "max_steps": 12, "gain_dataset": full, **tiny.BARE}
    whole = tiny.trainer(tmp_path / "whole", "resnet", **options)
    frozen = tiny.trainer(tmp_path / "frozen", "resnet", freeze_backbone=True, **options)
    whole.train()
    frozen.train()
    assert len(set(tiny.losses(whole))) == 12
    assert tiny.losses(frozen) == pytest.approx(tiny.losses(whole), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(frozen)) < 1e-5
    assert torch.allclose(whole.pair_state.probability, frozen.pair_state.probability, atol=1e-4)


# --- warnings ----------------------------------------------------------------------------------------------------


def test_the_log_says_which_set_selects(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "selmix_hf"):
        tiny.trainer(tmp_path)
    assert "no eval_dataset: gain_dataset, which steers the training, also selects the checkpoint" in caplog.text


def test_logs_are_json(finished):
    assert json.loads(json.dumps(finished.state.log_history)) == finished.state.log_history


# --- weights, flags and sets -------------------------------------------------------------------------------------


def test_a_frozen_run_leaves_the_model_trainable(tmp_path):
    model = tiny.model()
    flags = {name: name != "classifier.1.bias" for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    tiny.trainer(tmp_path / "frozen", model, freeze_backbone=True, max_steps=4, **tiny.BARE).train()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    before = tiny.weights(model)
    tiny.trainer(tmp_path / "whole", model, freeze_backbone=False, max_steps=4, **tiny.BARE).train()
    moved = {name for name, value in tiny.weights(model).items() if not torch.equal(value, before[name])}
    assert any(not name.startswith("classifier") for name in moved)

"""SelMixTrainer from end to end, and the traps of Trainer and accelerate that it has to avoid."""

import json
import logging
import random

import numpy as np
import pytest
import tiny
import torch
from datasets import Value
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback, pipeline

import selmix_hf.training.selmix
from selmix_hf import ClassIndex, PairSampler, SelMixTrainer
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.method.confusion import smooth_confusion
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.models.head import HeadError

LEARN = {"objective": "mean_recall", "max_steps": 24, "learning_rate": 0.05, "backbone_learning_rate": 0.02}
BOTH = pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])


class At(TrainerCallback):
    """Call a function at one kind of event."""

    def __init__(self, event, function):
        setattr(self, event, lambda args, state, control, **kwargs: function(state) and None)


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
def test_frozen_and_evaluation_passes_agree_with_plain_evaluation(freeze, tmp_path, monkeypatch):
    """The gain set is evaluated from the pass of the refresh, an equal set by a pass of its own: same numbers."""
    calls = []
    statistics = DatasetPass.statistics
    monkeypatch.setattr(DatasetPass, "statistics", lambda *a, **own: calls.append(a[1]) or statistics(*a, **own))
    gain = tiny.images(tiny.GAIN_COUNTS, seed=1)
    sets = {"gain": gain, "copy": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    options = {"metric_for_best_model": "eval_gain_selection_score", "freeze_backbone": freeze}
    run = tiny.trainer(tmp_path, "resnet", gain_dataset=gain, eval_dataset=sets, **options)
    run.train()
    logs = {name: [log for log in run.state.log_history if f"eval_{name}_psi" in log] for name in sets}
    assert [log["step"] for log in logs["gain"]] == [0, 4, 8]
    for ours, plain in zip(logs["gain"], logs["copy"], strict=True):
        names = [key.removeprefix("eval_gain_") for key in ours if key.startswith("eval_gain_")]
        for name in {*names} - {"runtime", "samples_per_second", "steps_per_second", "worst_class"}:
            assert ours[f"eval_gain_{name}"] == pytest.approx(plain[f"eval_copy_{name}"], abs=1e-6), name
    assert sum(dataset is sets["copy"] for dataset in calls) == 3
    assert len(calls) == 6  # one look at the gain set at steps 0, 4 and 8, for both purposes


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


def test_selection_puts_feasible_checkpoints_first(tmp_path):
    run = tiny.trainer(tmp_path, objective="mean_recall", constraints={"coverage": 0.9}, max_steps=4, **tiny.BARE)
    feasible = torch.tensor([[6, 4, 0, 0], [4, 6, 0, 0], [0, 0, 6, 4], [0, 0, 4, 6]])
    infeasible = torch.tensor([[10, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 6, 4]])
    first, second = run._metrics(feasible), run._metrics(infeasible)
    assert first["psi"] == first["selection_score"] == pytest.approx(0.6)
    assert second["psi"] == pytest.approx(0.85) and second["smallest_coverage"] == pytest.approx(0.4)
    assert second["selection_score"] < -1e6 < first["selection_score"]
    report = run.train() and [log for log in run.state.log_history if "gain_set_psi" in log][0]
    assert report["gain_set_violation"] > 0 and "largest_coverage_multiplier" in report


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_feature_views_are_different_views_of_the_same_image(num_workers, tmp_path):
    options = {"freeze_backbone": True, "feature_views": 3, "dataloader_num_workers": num_workers, "max_steps": 4}
    transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
    run = tiny.trainer(tmp_path, "convnext", **transforms, **options, **tiny.BARE)
    stored = run.store_features()
    assert len(stored.views) == 3 and len(stored) == 3 * sum(tiny.TRAIN_COUNTS)
    first, second, third = stored.views
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other).abs().amax(1).min() > 0  # every image
    assert torch.equal(torch.stack(stored.views), torch.stack(run.store_features().views))
    run.train()
    assert all(np.isfinite(tiny.losses(run)))


def test_stored_views_do_not_depend_on_workers_and_batches(tmp_path):
    def stored(folder, **options):
        transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
        run = tiny.trainer(tmp_path / folder, "convnext", freeze_backbone=True, **transforms, **options)
        return torch.stack(run.store_features().views)

    plain = stored("plain")
    assert torch.allclose(plain, stored("workers", dataloader_num_workers=2), atol=1e-5)
    assert torch.allclose(plain, stored("batches", per_device_eval_batch_size=5), atol=1e-5)


@BOTH
def test_compute_metrics_of_the_users_own_is_merged(freeze, tmp_path):
    def compute_metrics(prediction):
        return {"share_of_red": float((prediction.predictions.argmax(-1) == 0).mean())}

    run = tiny.trainer(tmp_path, compute_metrics=compute_metrics, freeze_backbone=freeze, max_steps=4)
    plain = tiny.trainer(tmp_path / "plain", max_steps=4).evaluate()
    own = run.evaluate()
    assert 0 <= own["eval_share_of_red"] <= 1
    for name in ("eval_mean_recall", "eval_selection_score", "eval_recall/blue", "eval_loss"):
        assert own[name] == pytest.approx(plain[name])
    run.train()
    assert sum("eval_share_of_red" in log for log in run.state.log_history) == 2  # at the start and at the end


def test_predict_gives_logits_of_raw_images(tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=True, max_steps=4)
    run.train()
    test = tiny.images((3, 3, 3, 3), seed=5)
    pixels = torch.stack([tiny.to_tensor(image) for image in test["image"]])
    with torch.no_grad():
        logits = run.model.eval()(pixel_values=pixels).logits.numpy()
    assert np.abs(run.predict(test).predictions - logits).max() < 1e-5
    assert run.predict(test.remove_columns("label")).predictions.shape == (12, 4)


@pytest.mark.parametrize("quiet", [False, True], ids=["bars", "no bars"])
def test_the_feature_pass_shows_its_progress(quiet, tmp_path, capsys):
    run = tiny.trainer(tmp_path, freeze_backbone=True, max_steps=4, disable_tqdm=quiet, **tiny.BARE)
    run.train()
    shown = capsys.readouterr().err
    assert ("33/33" in shown and "57/57" in shown and "pooled features" in shown) is not quiet
    run.is_world_process_zero = lambda: False
    assert run.passes.look.show_progress is False


def test_two_trainings_in_a_row_go_on_from_each_other(tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=True, max_steps=4, **tiny.BARE)
    run.train()
    first = tiny.weights(run)
    run.train()
    assert tiny.largest_difference(first, tiny.weights(run)) > 1e-4
    assert [log["step"] for log in run.state.log_history if "gain_set_psi" in log] == [0]


# --- traps of Trainer and accelerate -----------------------------------------------------------------------------


def _cross_entropy(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


@pytest.mark.parametrize(("freeze", "own_loss"), [(False, None), (True, None), (True, _cross_entropy)])
def test_accumulation_traces_the_same_curve(freeze, own_loss, tmp_path):
    runs = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        options |= {"freeze_backbone": freeze, "objective": "mean_recall", "learning_rate": 0.02, **tiny.BARE}
        runs.append(tiny.trainer(tmp_path / str(batch), "resnet", compute_loss_func=own_loss, **options))
        runs[-1].train()
    assert len(tiny.losses(runs[0])) == 8
    for run in runs[1:]:
        assert tiny.losses(run) == pytest.approx(tiny.losses(runs[0]), abs=1e-6)
        assert tiny.largest_difference(tiny.weights(run), tiny.weights(runs[0])) < 1e-6


@pytest.mark.parametrize("kind", ["resnet", "test_resnet"])
def test_batch_norm_statistics_stay(kind, tmp_path):
    run = tiny.trainer(tmp_path, kind, max_steps=4, **tiny.BARE)
    before = tiny.weights(run)
    run.train()
    after = tiny.weights(run)
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (2, 2)])
def test_every_period_trains_on_its_own_p(workers, accumulation, tmp_path):
    """Labels and coefficients of all batches are those that P of the batch's own period gives."""
    options = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation, "max_steps": 12}
    options |= {"per_device_train_batch_size": 8 // accumulation, "inverse_temperature": "auto", "target_share": 0.5}
    if workers:
        options["dataloader_prefetch_factor"] = 8
    run = tiny.trainer(tmp_path, "convnext", **options, **tiny.BARE)
    batches, probabilities = [], {}
    plain_loss = run.compute_loss

    def compute_loss(model, inputs, **kwargs):
        probabilities[run.pair_state.period] = run.pair_state.probability
        batches.append((inputs["labels"], inputs["mixing_coefficient"]))
        return plain_loss(model, inputs, **kwargs)

    run.compute_loss = compute_loss
    run.train()
    labels, coefficients = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(probabilities) == [0, 1, 2] and not torch.equal(probabilities[0], probabilities[1])
    train_labels = np.array(run.train_dataset["label"])
    index = ClassIndex(train_labels, 4)
    for period in range(3):
        sampler = PairSampler(index, index, lambda p=period: probabilities[p], 32, lambda p=period: p, 0.6, seed=42)
        first, _, coefficient, *_ = sampler.draw()
        mine = slice(32 * period, 32 * period + 32)
        assert labels[mine].tolist() == train_labels[first].tolist()
        assert torch.equal(coefficients[mine], torch.tensor(coefficient, dtype=torch.float32))


@pytest.mark.parametrize(("freeze", "workers"), [(False, 0), (True, 0), (False, 1)])
def test_a_refresh_leaves_the_global_random_state_alone(freeze, workers, tmp_path):
    transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.random_view}
    options = {"dataloader_num_workers": workers, "freeze_backbone": freeze, "max_steps": 8}
    run = tiny.trainer(tmp_path, "convnext", **transforms, **options)
    states, plain_refresh, plain_start = [], run.periods.refresh, run.periods.start_run

    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    def between(function):
        before = state()
        function()
        states.append(before == state())

    run.periods.refresh, run.periods.start_run = (lambda: between(plain_refresh)), (lambda: between(plain_start))
    run.train()
    assert states == [True, True, True]


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


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_the_update(accumulation, tmp_path):
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        calls.append(labels)
        factor = float("nan") if len(calls) == 6 * accumulation else 1.0
        return torch.nn.functional.cross_entropy(outputs["logits"], labels) * factor

    options = {"save_strategy": "epoch", "gradient_accumulation_steps": accumulation}
    run = tiny.trainer(tmp_path, "resnet", compute_loss_func=loss, **options)
    after_step = {}
    run.add_callback(At("on_step_end", lambda state: after_step.update({state.global_step: tiny.weights(run)})))
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 5; stopped before the update, earli"):
        run.train()
    assert tiny.largest_difference(after_step[5], tiny.weights(run)) == 0
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert tiny.largest_difference(after_step[4], tiny.weights(saved)) == 0


@BOTH
def test_a_gain_that_is_not_finite_stops(freeze, tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=freeze, save_strategy="epoch", max_steps=12)

    def spoil(state):
        if state.global_step == 8:
            next(run.head.parameters()).data.fill_(float("nan"))

    run.add_callback(At("on_epoch_end", spoil))
    with pytest.raises(FloatingPointError, match="the gain is not finite at step 8"):
        run.train()
    assert not (tmp_path / "checkpoint-8").exists()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert all(bool(value.isfinite().all()) for value in tiny.weights(saved).values())


def test_persistent_workers_do_not_mix_up_the_sets(tmp_path):
    run = tiny.trainer(tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    plain = tiny.trainer(tmp_path / "plain")
    test = tiny.images((2, 3, 4, 5), seed=7)
    for dataset in (None, test, None):
        ours, expected = run.evaluate(dataset), plain.evaluate(dataset)
        for name in ("eval_loss", "eval_accuracy", "eval_mean_recall"):
            assert ours[name] == pytest.approx(expected[name])


def test_users_objective_and_loss(tmp_path):
    def squared_recalls(confusion):
        return (confusion.diagonal() / confusion.sum(1)).square().mean()

    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(outputs.logits.shape)
        return torch.nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.1)

    options = {"objective": squared_recalls, "compute_loss_func": loss, "max_steps": 4, "learning_rate": 0.05}
    run = tiny.trainer(tmp_path, "convnext", **options)
    run.train()
    metrics = run.evaluate()
    recalls = [metrics[f"eval_recall/{name}"] for name in tiny.NAMES]
    assert metrics["eval_psi"] == metrics["eval_selection_score"] == pytest.approx(np.square(recalls).mean())
    assert run.objective.name == "squared_recalls" and seen == [(8, 4)] * 4
    smooth = tiny.trainer(
        tmp_path / "b", "convnext", **{**options, "compute_loss_func": None}, label_smoothing_factor=0.1
    )
    smooth.train()
    assert tiny.losses(smooth) == pytest.approx(tiny.losses(run), abs=1e-6)


@pytest.mark.parametrize(("policy", "effective"), [("uniform", 16), ("greedy", 1)])
def test_pair_sampling(policy, effective, tmp_path):
    run = tiny.trainer(tmp_path, pair_sampling=policy, max_steps=4, **tiny.BARE)
    run.train()
    report = next(log for log in run.state.log_history if "effective_pairs" in log)
    assert report["effective_pairs"] == pytest.approx(effective)
    assert "inverse_temperature" not in report


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 0.5),
        ({"objective": "h_mean"}, 0.97),
        ({"objective": "h_mean", "target_share": 0.3}, 0.3),
        ({"objective": "mean_recall", "constraints": {"coverage": 0.9}}, 0.5),
    ],
)
def test_the_share_of_pairs_follows_the_objective(options, share, tmp_path):
    run = tiny.trainer(tmp_path, max_steps=4, refresh_steps=4, **options, **tiny.BARE)
    run.train()
    expected = pair_distribution(run.gain, target_share=share).probability
    torch.testing.assert_close(run.pair_state.probability, expected)


def test_the_temperature_that_auto_chose_is_logged_and_gives_the_same_pairs_as_a_number(tmp_path):
    auto = tiny.trainer(tmp_path / "auto", max_steps=4, refresh_steps=4, **tiny.BARE)
    auto.train()
    (logged,) = [log["inverse_temperature"] for log in auto.state.log_history if "gain_set_psi" in log]
    number = tiny.trainer(tmp_path / "n", inverse_temperature=logged, max_steps=4, refresh_steps=4, **tiny.BARE)
    number.train()
    torch.testing.assert_close(number.pair_state.probability, auto.pair_state.probability)


def test_a_numeric_temperature_sees_gains_divided_by_the_multipliers_and_the_reported_gain_is_not(tmp_path):
    options = {"objective": "mean_recall", "constraints": {"coverage": 0.95}, "max_steps": 4}
    auto = tiny.trainer(tmp_path / "auto", **options, **tiny.BARE)
    numeric = tiny.trainer(tmp_path / "numeric", inverse_temperature=100.0, **options, **tiny.BARE)
    for run in (auto, numeric):
        run.train()
    largest = float(numeric.pair_state.multipliers["coverage"].max())
    assert largest > 0 and torch.equal(auto.gain, numeric.gain)
    expected = pair_distribution(numeric.gain / (1 + largest), inverse_temperature=100.0).probability
    assert torch.allclose(numeric.pair_state.probability, expected, atol=1e-7)
    plain = tiny.trainer(tmp_path / "plain", inverse_temperature=100.0, max_steps=4, **tiny.BARE)
    plain.train()  # its multipliers are weights of the classes, which sum to 1
    expected = pair_distribution(plain.gain, inverse_temperature=100.0).probability
    assert torch.allclose(plain.pair_state.probability, expected, atol=1e-7)


def test_classes_of_one_name_are_told_apart(tmp_path):
    names = ["crane", "ox", "crane", "owl"]
    model = tiny.model()
    model.config.id2label = dict(enumerate(names))
    counts = (tiny.TRAIN_COUNTS, tiny.GAIN_COUNTS)
    train, gain = (tiny.images(of_set).cast_column("label", Value("int64")) for of_set in counts)
    run = tiny.trainer(tmp_path, model, train_dataset=train, gain_dataset=gain)
    recalls = [name for name in run.evaluate() if name.startswith("eval_recall/")]
    assert recalls == ["eval_recall/crane (0)", "eval_recall/ox", "eval_recall/crane (2)", "eval_recall/owl"]


def test_a_metric_that_nobody_measures_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="'eval_min_recal' is not measured; did you mean 'min_recall'"):
        tiny.trainer(tmp_path, metric_for_best_model="eval_min_recal")
    tiny.trainer(tmp_path, metric_for_best_model="h_mean")
    tiny.trainer(tmp_path, metric_for_best_model="eval_mine", compute_metrics=lambda prediction: {"mine": 1.0})


def test_images_that_come_as_tensors(tmp_path):
    plain = tiny.trainer(tmp_path / "a", **tiny.BARE)
    tensors = tiny.trainer(tmp_path / "b", train_dataset=tiny.images().with_format("torch"), **tiny.BARE)
    for run in (plain, tensors):
        run.train()
    assert tiny.losses(plain) == pytest.approx(tiny.losses(tensors))


def test_classes_absent_from_training_are_named(tmp_path):
    train = tiny.images((20, 10, 5, 0))
    with pytest.raises(ValueError, match="train_dataset has no sample of 1 of 4 classes: .*grey"):
        tiny.trainer(tmp_path, train_dataset=train)


def test_a_class_prior_of_ones_own(tmp_path):
    options = {"constraints": {"coverage": 0.9}, "class_prior": [4, 3, 2, 1], "freeze_backbone": True, "max_steps": 4}
    run = tiny.trainer(tmp_path, objective="mean_recall", **options)
    run.train()
    counts = torch.tensor([[9, 0, 0, 0], [0, 8, 0, 0], [0, 0, 7, 0], [0, 0, 0, 9]])
    assert run._metrics(counts)["smallest_coverage"] == pytest.approx(0.1 * 4)


# --- errors ------------------------------------------------------------------------------------------------------


def _without(dataset, *classes):
    return dataset.filter(lambda label: label not in classes, input_columns="label")


ERRORS = {
    "no gain_dataset": ({"gain_dataset": None}, ValueError, "needs gain_dataset, a validation set with every class"),
    "no train_dataset": ({"train_dataset": None}, ValueError, "needs train_dataset: the labelled, long-tailed set"),
    "missing class": (
        {"gain_dataset": lambda: _without(tiny.images(), 2)},
        ValueError,
        "gain_dataset has no sample of 1 of 4 classes: .*blue",
    ),
    "labels out of range": (
        {"train_dataset": lambda: tiny.images((9, 9, 9, 9, 9), names=("a", "b", "c", "d", "e"))},
        ValueError,
        "train_dataset: the model has 4 classes, but there is a label 4. Load the model with num_labels=5",
    ),
    "labels float": (
        {
            "train_dataset": lambda: tiny.images().add_column("target", [0.5] * 57).remove_columns("label"),
            "gain_dataset": lambda: tiny.images().rename_column("label", "target"),
            "label_column": "target",
        },
        ValueError,
        "train_dataset: column 'target' holds .*float64.*, not an integer class",
    ),
    "streaming": (
        {"train_dataset": lambda: tiny.images().to_iterable_dataset()},
        TypeError,
        "train_dataset is a IterableDataset: a streaming dataset has no random access",
    ),
    "streaming gain set": (
        {"gain_dataset": lambda: tiny.images().to_iterable_dataset()},
        TypeError,
        "gain_dataset is a IterableDataset.*Dataset.from_list",
    ),
    "empty": ({"gain_dataset": lambda: tiny.images().select([])}, ValueError, "gain_dataset is empty"),
    "other order": (
        {"train_dataset": lambda: tiny.images(names=("green", "red", "blue", "grey")), "named": True},
        ValueError,
        "same classes in another order: class 0 is 'red' in the model and 'green' in the dataset. Call dataset.align",
    ),
    "no processor": (
        {"processing_class": None},
        ValueError,
        "images need processing_class .* or a transform that turns a PIL image into a tensor; found neither",
    ),
    "collator and transform": (
        {"data_collator": list, "train_transform": tiny.to_tensor},
        ValueError,
        "give either a data_collator or transforms",
    ),
    "only one transform": (
        {"processing_class": None, "eval_transform": tiny.to_tensor},
        ValueError,
        "Without processing_class give both train_transform and eval_transform",
    ),
    "transform that gives no tensor": (
        {"train_transform": lambda image: image},
        ValueError,
        "a transform must turn every image into a tensor C x H x W, all of one shape, found <PIL",
    ),
    "transform that gives several sizes": (
        {"train_transform": lambda image: torch.zeros(3, 16, np.random.randint(2, 2000))},
        ValueError,
        r"all of one shape, found \[3, 16, \d+\], \[3, 16, \d+\]: end it with a crop or resize to a fixed size",
    ),
    "transform with channels last": (
        {"train_transform": np.array},
        ValueError,
        "train_dataset gives are of another kind than those of gain_dataset: {'pixel_values': '16 x H x W'} there",
    ),
    "name of a transform": ({"train_transform": "crop"}, ValueError, "the transform must be .* called on images, fou"),
    "name of a processor": (
        {"processing_class": "google/vit"},
        ValueError,
        "processing_class must be an object that can be called on images, found 'google/vit'",
    ),
    "no eval set by name": (
        {"eval_dataset": dict},
        ValueError,
        "eval_dataset is empty: give one set, several by name",
    ),
    "no such label column": ({"label_column": "labl"}, ValueError, "no column 'labl' in the dataset; it has image, l"),
    "a row without label": (
        {"train_dataset": lambda: tiny.images().remove_columns("label").add_column("label", [None] + [1] * 56)},
        ValueError,
        "the labels in 'label' must be integers, found None: see class_encode_column .* filter rows without a label",
    ),
    "no such head": ({"head_name": "embedder"}, HeadError, "expected head_name 'embedder' to be a linear layer"),
    "prior of other length": (
        {"objective": "macro_f1", "class_prior": [0.5, 0.5]},
        ValueError,
        r"class_prior must hold 4 positive numbers, one a class, found shape \(2,\)",
    ),
    "unknown objective": (
        {"objective": "min_recal"},
        ValueError,
        "unknown objective 'min_recal'; did you mean 'min_re",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_to_do(case, tmp_path):
    options, kind, sentence = ERRORS[case]
    made = {name: value() for name, value in options.items() if name.endswith("_dataset") and value is not None}
    options, model = {**options, **made}, tiny.model()
    if options.pop("named", False):
        model.config.id2label = dict(enumerate(tiny.NAMES))
    with pytest.raises(kind, match=sentence):
        tiny.trainer(tmp_path, model, **options)


def test_a_model_without_a_weight_to_train(tmp_path):
    run = tiny.trainer(tmp_path, tiny.model().requires_grad_(False))
    with pytest.raises(
        HeadError, match=r"no weight requires a gradient.*model.requires_grad_\(True\), or set freeze_b"
    ):
        run.train()


def test_one_class_only(tmp_path):
    one = tiny.images((9,), names=("red",))
    with pytest.raises(ValueError, match="SelMix needs a classifier with at least two classes"):
        tiny.trainer(tmp_path, tiny.model(num_classes=1), train_dataset=one, gain_dataset=one)


def test_models_and_arguments_that_cannot_start(tmp_path):
    import timm
    from transformers import TrainingArguments

    sets = {"train_dataset": tiny.images(), "gain_dataset": tiny.images(), "processing_class": tiny.processor()}
    with pytest.raises(ValueError, match="starts from a trained classifier: give model"):
        SelMixTrainer(None, tiny.config(tmp_path), **sets)
    with pytest.raises(TypeError, match="args must be a SelMixConfig, found TrainingArguments"):
        SelMixTrainer(tiny.model(), TrainingArguments(str(tmp_path)), **sets)
    with pytest.raises(TypeError, match="a raw timm model cannot be saved .* wrap it in a TimmWrapperForImageClass"):
        SelMixTrainer(timm.create_model("test_convnext", num_classes=4), tiny.config(tmp_path), **sets)


def test_labels_of_an_evaluation_set_are_checked(tmp_path):
    run = tiny.trainer(tmp_path)
    with pytest.raises(ValueError, match="the test set has no sample of 1 of 4 classes"):
        run.evaluate(_without(tiny.images(), 0), metric_key_prefix="test")


# --- warnings ----------------------------------------------------------------------------------------------------


def _constant(confusion):
    return confusion.sum()


def test_vanishing_gains_are_said(tmp_path, caplog):
    run = tiny.trainer(tmp_path, objective=_constant, freeze_backbone=True, **tiny.BARE)
    run.train()
    assert caplog.text.count("all gains vanish (largest") == 1


def test_a_perfect_gain_set_is_said(tmp_path, caplog):
    easy = tiny.images((2, 2, 2, 2))
    run = tiny.trainer(
        tmp_path,
        "convnext",
        train_dataset=easy,
        gain_dataset=easy,
        freeze_backbone=True,
        **{**LEARN, "max_steps": 60, "learning_rate": 0.5},
        **tiny.BARE,
    )
    run.train()
    assert run.evaluate()["eval_min_recall"] == 1
    assert caplog.text.count("every sample of gain_dataset is already classified rightly") == 1


def test_negative_gains_are_said(tmp_path, caplog, monkeypatch):
    run = tiny.trainer(tmp_path, freeze_backbone=True, confusion="hard", **tiny.BARE)
    plain = selmix_hf.training.steering.head_gain
    monkeypatch.setattr(selmix_hf.training.selmix, "head_gain", lambda *args: -plain(*args).abs())
    run.train()
    assert caplog.text.count("no pair of classes has a positive gain") == 1


def test_the_log_says_which_set_selects(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "selmix_hf"):
        tiny.trainer(tmp_path)
    assert "no eval_dataset: gain_dataset, which steers the training, also selects the checkpoint" in caplog.text


def test_logs_are_json(finished):
    assert json.loads(json.dumps(finished.state.log_history)) == finished.state.log_history


@pytest.mark.parametrize("which", ["gain_dataset", "eval_dataset"])
def test_class_names_of_every_set_stand_in_one_order(which, tmp_path):
    other = tiny.images((5, 5, 5, 5), names=("green", "red", "blue", "grey"))
    with pytest.raises(ValueError, match="the model and .* have the same classes in another order: class 0 is 'red'"):
        tiny.trainer(tmp_path, **{which: other}).evaluate()


# --- weights, flags and sets -------------------------------------------------------------------------------------


def _spoil_at(run, step):
    def spoil(state):
        if state.global_step == step:
            next(run.head.parameters()).data.fill_(float("nan"))

    run.add_callback(At("on_step_end", spoil))


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_weights_that_are_not_finite_are_not_saved(strategy, tmp_path):
    """With an eval_dataset of its own the gain set is not looked at before the checkpoint is written."""
    options = {"save_strategy": strategy, "save_steps": 4, "eval_strategy": strategy, "eval_steps": 4, "max_steps": 12}
    options |= {"eval_dataset": tiny.images((5, 5, 5, 5), seed=3), "save_total_limit": 1}
    run = tiny.trainer(tmp_path, load_best_model_at_end=False, **options)
    _spoil_at(run, 8)
    with pytest.raises(
        FloatingPointError, match=r"weights are not finite at step 8 \(classifier.*earlier checkpoints"
    ):
        run.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert all(bool(value.isfinite().all()) for value in tiny.weights(saved).values())


def test_weights_that_are_not_finite_are_not_returned(tmp_path):
    run = tiny.trainer(tmp_path, **tiny.BARE)
    _spoil_at(run, 8)
    with pytest.raises(FloatingPointError, match="the weights are not finite at step 8"):
        run.train()


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


def _vector(confusion):
    return confusion.diagonal()


def _number(confusion):
    return float(confusion.detach().trace())


def _array(confusion):
    return confusion.numpy().trace()


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (_vector, r"'_vector' must map the confusion matrix to one number .* found Tensor of shape \(4,\)"),
        (_number, "'_number' must map the confusion matrix to one number .* found float"),
        (_array, "'_array' must map the 4 x 4 confusion matrix to one number .* it raised RuntimeError"),
        (get_objective("macro_f1", class_prior=[0.5, 0.5]), r"class_prior must hold 4 positive numbers.*shape \(2,\)"),
    ],
)
def test_an_objective_is_tried_at_the_start(objective, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetPass, "_run", lambda *_: pytest.fail("a pass over the data"))
    with pytest.raises(ValueError, match=sentence):
        tiny.trainer(tmp_path, objective=objective)


@pytest.mark.parametrize(
    ("sets", "kind", "sentence"),
    [
        (lambda: tiny.images().to_iterable_dataset(), TypeError, "eval_dataset is a IterableDataset: a streaming"),
        (lambda: _without(tiny.images(), 3), ValueError, "eval_dataset has no sample of 1 of 4 classes: 'grey'"),
        (lambda: {"a": tiny.images(), "b": _without(tiny.images(), 3)}, ValueError, r"eval_dataset\['b'\] has no sam"),
        (
            lambda: {"a": tiny.images(), "b": tiny.images()},
            ValueError,
            "'selection_score' names none of them: set it to one of 'eval_a_selection_score', 'eval_b_selec",
        ),
    ],
)
def test_evaluation_sets_are_checked_at_the_start(sets, kind, sentence, tmp_path):
    with pytest.raises(kind, match=sentence):
        tiny.trainer(tmp_path, eval_dataset=sets())


def test_several_evaluation_sets_without_evaluation_need_no_choice(tmp_path):
    run = tiny.trainer(tmp_path, eval_dataset={"a": tiny.images()}, **tiny.BARE)
    assert "eval_a_psi" in run.evaluate()


def test_a_run_that_was_never_feasible_is_said(tmp_path, caplog):
    options = {"constraints": {"coverage": 1.0}, "constraint_tolerance": 0.0, "max_steps": 4}
    run = tiny.trainer(tmp_path / "tight", **options)
    run.train()
    assert run.evaluate()["eval_violation"] == pytest.approx(1 - run.evaluate()["eval_smallest_coverage"])
    assert caplog.text.count("the constraints held at no evaluation of this run") == 1
    caplog.clear()
    run = tiny.trainer(tmp_path / "loose", **{**options, "constraint_tolerance": 5.0})
    run.train()
    assert "the constraints held" not in caplog.text


# --- options reach what they are for -----------------------------------------------------------------------------


@pytest.mark.parametrize("confusion", ["hard", "soft"])
def test_multipliers_go_on_from_period_to_period_at_the_rates_of_the_options(confusion, tmp_path):
    """Worked out anew from the counts of every refresh: mu <- (mu - rate * slack)+, log lambda as a running mean; with
    soft counts lambda follows those for three quarters."""
    options = {"constraints": {"coverage": 0.95}, "constraint_rate": 0.7, "min_rate": 4.0, "min_memory": 0.6}
    run = tiny.trainer(tmp_path, max_steps=16, learning_rate=0.01, confusion=confusion, **options, **tiny.BARE)
    seen = []

    def look(state):
        soft = run._soft_confusion().counts if confusion == "soft" else run.gain_counts
        seen.append((run.gain_counts, soft, run.pair_state.multipliers))

    run.add_callback(At("on_epoch_begin", look))  # after the refresh
    run.train()
    constraint, log_minimum = torch.zeros(4, dtype=torch.float64), None
    assert len(seen) == 4
    for counts, soft, multipliers in seen:
        smoothed = smooth_confusion(counts, "balanced")
        constraint = (constraint - 0.7 * (4 * smoothed.sum(0) - 0.95)).clamp(min=0)
        smoothed = 0.75 * smooth_confusion(soft, "balanced") + 0.25 * smoothed
        target = -4.0 * smoothed.diagonal() / smoothed.sum(1)
        log_minimum = target if log_minimum is None else 0.6 * log_minimum + 0.4 * target
        log_minimum = log_minimum.log_softmax(0)
        assert torch.allclose(multipliers["coverage"], constraint)
        assert torch.allclose(multipliers["min_recall"], log_minimum.exp())
    assert float(constraint.max()) > 1.1 * float(seen[0][2]["coverage"].max())  # they did add up


@pytest.mark.parametrize(("share", "tail"), [(0.25, ["grey"]), (0.5, ["blue", "grey"])])
def test_tail_share_says_which_classes_are_the_tail(share, tail, tmp_path):
    metrics = tiny.trainer(tmp_path, "convnext", tail_share=share, objective="min_head_tail_recall").evaluate()
    head = [name for name in tiny.NAMES if name not in tail]
    of_tail, of_head = (np.mean([metrics[f"eval_recall/{name}"] for name in names]) for names in (tail, head))
    assert metrics["eval_tail_recall"] == pytest.approx(of_tail)
    assert metrics["eval_head_recall"] == pytest.approx(of_head)
    assert metrics["eval_psi"] == pytest.approx(min(of_tail, of_head)) and of_tail != of_head


def test_the_largest_gain_is_logged(tmp_path):
    run = tiny.trainer(tmp_path, max_steps=4, **tiny.BARE)
    run.train()
    (report,) = [log for log in run.state.log_history if "largest_gain" in log]
    assert report["largest_gain"] == pytest.approx(float(run.gain.max()))
    assert float(run.gain.max()) > float(run.gain.flatten().sort().values[-2])


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


@pytest.mark.parametrize(
    "options", [{}, {"freeze_backbone": True}, {"freeze_backbone": True, "feature_cache_dir": "c"}]
)
def test_predicted_classes_are_those_of_predict(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tiny.trainer(tmp_path / "out", "convnext", **options, **tiny.BARE)
    run.head.modules[0].weight.data = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) * 9
    test = tiny.images((5, 6, 7, 3), seed=4)
    found = run.predicted_classes(test)
    assert found.tolist() == run.predict(test).predictions.argmax(-1).tolist() and len(set(found.tolist())) > 1

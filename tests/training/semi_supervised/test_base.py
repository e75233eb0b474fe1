"""What all semi-supervised trainers share: unread labels, resume, views, processes, bad input."""

import copy
import os
import subprocess
import sys
from math import exp
from pathlib import Path

import pytest
import semi_supervised_run
import tiny
import torch
from datasets import Dataset
from semi_supervised_run import COUNTS, METHODS, make, unlabeled
from semi_supervised_step import every_method, step_of


def test_the_default_ramp_by_hand(tmp_path, monkeypatch):
    weights = []
    for method in METHODS:
        monkeypatch.delitem(METHODS[method][1], "rampup_steps", raising=False)
        trainer = make(tmp_path, method)
        for step in (0, 10_000, 40_000):
            trainer.state.global_step = step
            weights.append(trainer._weight())
    expected = [1, 1, 1, 100 * exp(-5), 100 * exp(-5 * 0.75**2), 100, 0, 75 * 10 / 16, 75]
    assert weights == pytest.approx(expected)


@every_method
def test_batch_norm_sees_one_batch_a_step(method, tmp_path):
    trainer = make(tmp_path, method, "resnet", max_steps=3)
    trainer.train()
    tracked = [value for name, value in tiny.weights(trainer).items() if name.endswith("num_batches_tracked")]
    assert tracked and all(value == 3 for value in tracked)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_look_aside_leaves_no_trace_and_sees_batch_statistics(averaged, tmp_path):
    trainer = make(tmp_path, "mean_teacher", "resnet")
    _, _, first, _ = step_of(trainer)
    before, average = tiny.weights(trainer), copy.deepcopy(trainer.average.values)
    with torch.no_grad():
        for value in trainer.average.values.values():
            value.mul_(2)
    logits = trainer.logits_aside(first, averaged)
    assert not logits.requires_grad and tiny.largest_difference(before, tiny.weights(trainer)) == 0
    doubled = {name: 2 * value for name, value in average.items()}
    assert tiny.largest_difference(doubled, trainer.average.values) == 0
    trainer.model.load_state_dict(doubled if averaged else before)
    assert torch.equal(logits, trainer.model(pixel_values=first).logits)


@every_method
@pytest.mark.parametrize("wrong", [False, True], ids=["no labels", "wrong labels"])
def test_true_labels_are_never_read(method, wrong, tmp_path):
    right = unlabeled(labels=True)
    other = unlabeled()
    if wrong:
        other = other.add_column("label", [-1 - label for label in right["label"]])
    runs = []
    for data in (right, other):
        runs.append(make(tmp_path, method, unlabeled_dataset=data))
        runs[-1].train()
    assert tiny.largest_difference(*map(tiny.weights, runs)) == 0 and tiny.losses(runs[0]) == tiny.losses(runs[1])


def test_two_processes_equal_one(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    launcher += ["--rdzv_endpoint", "localhost:0", semi_supervised_run.__file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, *launcher], env=environment, capture_output=True, text=True, timeout=300)
    for method in ("fixmatch", "mean_teacher"):
        paths = [tmp_path / f"{method}-{rank}.pt" for rank in (0, 1)]
        assert all(path.is_file() for path in paths), done.stderr[-3000:]
        one = make(tmp_path / "one", method)
        one.train()
        for path in paths:
            seen = torch.load(path)
            assert seen["losses"] == pytest.approx(tiny.losses(one), rel=1e-5)
            assert tiny.largest_difference(seen["weights"], tiny.weights(one)) < 1e-6


@pytest.mark.parametrize("stop", [3, 4], ids=["within an epoch", "between epochs"])
@every_method
def test_resume_is_exact(method, stop, tmp_path):
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 7}
    options |= {"dataloader_num_workers": 2, "save_strategy": "steps", "save_steps": stop}
    whole, again = (make(tmp_path / name, method, tiny.model("vit", **dropout), **options) for name in "ab")
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{stop}"))
    assert tiny.losses(again) == tiny.losses(whole) and len(tiny.losses(whole)) == 7
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"per_device_train_batch_size": 4}, "{'labeled_per_step': 4}"),
        ({"gradient_accumulation_steps": 2}, "{'labeled_per_step': 16}"),
        ({"mu": 3}, "{'mu': 3}"),
        ({"unlabeled_dataset": tiny.images((6, 5, 6, 5)).remove_columns("label")}, "{'unlabeled': 22}"),
        ({"seed": 7}, "{'seed': 7}"),
    ],
    ids=lambda changed: next(iter(changed)) if isinstance(changed, dict) else "",
)
def test_a_resumed_run_keeps_what_its_steps_draw(changed, found, tmp_path):
    make(tmp_path, save_strategy="steps", save_steps=3).train()
    with pytest.raises(ValueError, match=f"this run has {found}: a resumed run must keep them, or its steps would dr"):
        make(tmp_path, **changed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_the_same_steps_by_other_means_are_resumed(tmp_path):
    whole = make(tmp_path, save_strategy="steps", save_steps=3)
    whole.train()
    again = make(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "vit", "test_convnext"])
@every_method
def test_default_views_and_loss_on_models_of_every_kind(method, kind, tmp_path):
    model = tiny.model(kind)
    options = {"weak_transform": None, "eval_transform": None, "processing_class": tiny.processor(model)}
    options |= {"strong_transform": None} if method == "fixmatch" else {}
    trainer = make(tmp_path, method, model, **options, max_steps=2)
    before = tiny.weights(trainer)
    trainer.train()
    assert tiny.largest_difference(before, tiny.weights(trainer)) > 0
    assert {"eval_mean_recall", "eval_min_recall"} <= trainer.evaluate(tiny.images(COUNTS)).keys()
    names = {"loss", "labeled_loss", "unlabeled_loss"} | ({"pseudo_labeled"} if method == "fixmatch" else set())
    assert names <= trainer.state.log_history[0].keys()


def test_other_columns_and_pairs(tmp_path):
    """Unlabelled images in a column of another name, and items that are pairs: the same run."""
    renamed = unlabeled(labels=True).rename_column("image", "picture")
    pairs = [(row["image"], None) for row in unlabeled(labels=True)]
    runs = [make(tmp_path, unlabeled_dataset=data) for data in (unlabeled(), renamed, pairs)]
    for run in runs:
        run.train()
    assert tiny.losses(runs[0]) == tiny.losses(runs[1]) == tiny.losses(runs[2])


@every_method
def test_every_run_begins_with_a_new_model(method, tmp_path):
    run = make(tmp_path, method, None, model_init=lambda: tiny.model("convnext"))
    found = []
    for _ in range(2):
        run.train()
        found.append(tiny.weights(run))
    assert tiny.largest_difference(*found) == 0
    assert tiny.largest_difference(found[0], tiny.weights(tiny.model("convnext"))) > 0


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (
            "fixmatch",
            {"unlabeled_dataset": None},
            "give unlabeled_dataset, a dataset with a column of images; without",
        ),
        ("fixmatch", {"unlabeled_dataset": Dataset.from_dict({"image": []})}, "unlabeled_dataset is empty"),
        ("fixmatch", {"unlabeled_dataset": Dataset.from_dict({"x": [1]})}, "one column of images, found none: drop"),
        ("fixmatch", {"unlabeled_dataset": iter([])}, "streaming dataset has no random access"),
        ("fixmatch", {"mu": 0}, "mu counts the unlabelled images of each labelled one, at least 1, found 0"),
        ("fixmatch", {"mu": 1.5}, "at least 1, found 1.5"),
        ("fixmatch", {"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), found 1.0: 0.999 averages"),
        ("fixmatch", {"unlabeled_weight": -1.0}, "unlabeled_weight must be finite and not negative, found -1"),
        ("fixmatch", {"rampup_steps": -1}, "rampup_steps must be finite and not negative, found -1"),
        ("fixmatch", {"threshold": 95}, r"threshold is a probability in \[0, 1\], found 95"),
        ("fixmatch", {"strong_transform": None}, "the strong view needs processing_class or strong_transform"),
        ("fixmatch", {"weak_transform": None}, "images need processing_class or weak_transform"),
        ("fixmatch", {"train_transform": tiny.to_tensor}, "its own views: give weak_transform, not train_transform"),
        ("fixmatch", {"mixup_alpha": 0.2}, "not mixup_alpha"),
        (
            "fixmatch",
            {"sampling": "class_balanced"},
            "FixMatchTrainer draws whole passes over both sets: leave sampling",
        ),
        ("fixmatch", {"strong_transform": tiny.timm_view().transforms[0]}, "must turn every image into a tensor"),
        (
            "fixmatch",
            {"strong_transform": lambda image: tiny.to_tensor(image.resize((8, 8)))},
            r"must have one shape C x H x W, found \[3, 8, 8\], \[3, 16, 16\]: give",
        ),
        ("mixmatch", {"temperature": 0.0}, "temperature must be positive, found 0.0: the paper's"),
        ("mixmatch", {"mixup_alpha": -1.0}, "mixup_alpha must be positive, found -1.0"),
        ("mixmatch", {"loss": "ldam"}, "MixMatch's labels are mixed, so its loss must be .* found 'ldam'"),
    ],
)
def test_bad_input(method, options, sentence, tmp_path):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make(tmp_path, method, **options)

"""FixMatch, Mean Teacher and MixMatch: losses by hand, draws, average, resume, unread labels, bad input."""

import copy
import os
import subprocess
import sys
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import semi_supervised_run
import tiny
import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import load_file
from semi_supervised_run import COUNTS, METHODS, make, unlabeled
from transformers import AutoModelForImageClassification, TrainerCallback, TrainerState

from selmix_hf.data.views import ShiftAndFlip, StrongView
from selmix_hf.training.semi_supervised import mixmatch
from selmix_hf.training.semi_supervised.average import WeightAverageCallback
from selmix_hf.training.semi_supervised.draws import DrawDataset, DrawSampler, shuffled_passes
from selmix_hf.training.semi_supervised.fixmatch import pseudo_label_loss
from selmix_hf.training.semi_supervised.mean_teacher import consistency_loss
from selmix_hf.training.semi_supervised.mixmatch import brier_loss, guess_labels, mixup

LOG_PRIOR = torch.tensor([5, 3, 3, 1]).div(12).log()
every_method = pytest.mark.parametrize("method", METHODS)


def logits(*rows):
    return torch.tensor(rows).log().requires_grad_()


# --- losses ----------------------------------------------------------------------------------------------------------


def test_pseudo_label_loss_by_hand():
    """Only the first of two samples is sure enough, and its strong view is undecided: log(2) / 2."""
    weak, strong = logits([0.97, 0.03], [0.6, 0.4]), logits([0.5, 0.5], [0.2, 0.8])
    loss, kept = pseudo_label_loss(weak, strong, 0.95)
    assert loss.item() == pytest.approx(log(2) / 2) and kept.item() == 0.5
    loss.backward()
    assert weak.grad is None and strong.grad.tolist() == [[-0.25, 0.25], [0, 0]]
    both, _ = pseudo_label_loss(weak, strong, 0.6)
    assert both.item() == pytest.approx((log(2) - log(0.2)) / 2)


def test_consistency_loss_by_hand():
    """((.8 - .6)^2 + (.2 - .4)^2 + 0 + 0) / 4."""
    student, teacher = logits([0.8, 0.2], [0.5, 0.5]), logits([0.6, 0.4], [0.5, 0.5])
    loss = consistency_loss(student, teacher)
    assert loss.item() == pytest.approx(0.02)
    loss.backward()
    assert teacher.grad is None and student.grad is not None


def test_mixmatch_parts_by_hand():
    views = torch.stack([logits([0.8, 0.2]), logits([0.4, 0.6])])  # mean .6, .4
    guess = guess_labels(views, temperature=0.5)  # .36 and .16 of .52
    assert guess[0].tolist() == pytest.approx([9 / 13, 4 / 13]) and not guess.requires_grad
    assert guess_labels(views, temperature=1)[0].tolist() == pytest.approx([0.6, 0.4])
    rows, order = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0])
    assert mixup(rows, torch.tensor([0.25, 0.9]), order).flatten().tolist() == pytest.approx([0.75, 0.25, 0.1, 0.9])
    assert brier_loss(logits([0.8, 0.2]), torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.09)


def step_of(trainer):
    """The first batch of a run that begins: labelled images, labels, both views."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.average.on_train_begin(None, trainer.state, None, trainer.model)
    pixels, mu = batch["pixel_values"], trainer.mu
    assert pixels.shape == (8, 1 + 2 * mu, 3, 16, 16)
    first, second = (pixels[:, 1 + mu * v : 1 + mu * (v + 1)].flatten(0, 1) for v in (0, 1))
    assert not torch.equal(first, second) and len(first) == 8 * mu
    return pixels[:, 0], batch["labels"], first, second


def test_fixmatch_with_logit_adjustment(tmp_path):
    """The labelled logits are shifted by log pi; pseudo-label and unlabelled loss are those of plain logits."""
    trainer = make(tmp_path, threshold=0.27, unlabeled_weight=0.5)
    labelled, labels, weak, strong = step_of(trainer)
    of = lambda pixels: trainer.model(pixel_values=pixels).logits  # noqa: E731
    confidence, target = of(weak).softmax(1).max(1)
    assert 0 < (confidence >= 0.27).sum() < len(weak) == 16
    unlabelled = F.cross_entropy(of(strong), target, reduction="none")[confidence >= 0.27].sum() / 16
    expected = F.cross_entropy(of(labelled) + LOG_PRIOR, labels) + 0.5 * unlabelled
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_mean_teacher_with_a_teacher_of_its_own_weights(tmp_path):
    trainer = make(tmp_path, "mean_teacher", loss="cross_entropy", rampup_steps=10)
    labelled, labels, first, second = step_of(trainer)
    teacher = copy.deepcopy(trainer.model)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trainer.state.global_step = 5
    of = lambda model, pixels: model(pixel_values=pixels).logits  # noqa: E731
    gap = of(trainer.model, first).softmax(1) - of(teacher, second).softmax(1)
    supervised = F.cross_entropy(of(trainer.model, labelled), labels)
    expected = supervised + 100 * exp(-5 * 0.25) * (gap**2).sum() / (16 * 4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixmatch_with_a_known_order(tmp_path, monkeypatch):
    """Every share .75, every row mixed with that of the opposite end: 8 labelled and 2 x 16 unlabelled rows."""
    drawn = torch.full((40,), 0.25), torch.arange(39, -1, -1)
    monkeypatch.setattr(mixmatch, "draw_mixing", lambda num_rows, alpha, generator: drawn)
    trainer = make(tmp_path, "mixmatch", rampup_steps=10)
    labelled, labels, first, second = step_of(trainer)
    trainer.state.global_step = 2
    of = lambda pixels: trainer.model(pixel_values=pixels).logits  # noqa: E731
    guess = ((of(first).softmax(1) + of(second).softmax(1)) / 2) ** 2
    guess = (guess / guess.sum(1, keepdim=True)).detach()
    pixels, targets = torch.cat([labelled, first, second]), torch.cat([torch.eye(4)[labels], guess, guess])
    pixels, targets = (0.75 * x + 0.25 * x.flip(0) for x in (pixels, targets))
    supervised = -(targets[:8] * (of(pixels[:8]) + LOG_PRIOR).log_softmax(1)).sum() / 8
    squares = (targets[8:] - of(pixels[8:]).softmax(1)) ** 2
    expected = supervised + 75 * 0.2 * squares.sum() / (32 * 4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixmatch_draws_a_permutation_and_shares_of_its_beta():
    share, order = mixmatch.draw_mixing(4000, 0.75, np.random.default_rng(0))
    assert share.dtype == torch.float32 and sorted(order.tolist()) == list(range(4000))
    # of Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert (share.mean().item(), share.var().item()) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.1, abs=0.005))


class Disturbance(TrainerCallback):
    """Draws from torch's global generator, as dropout and evaluation may."""

    def on_step_begin(self, *args, **kwargs):
        torch.rand(1)


@every_method
def test_what_is_drawn_depends_on_the_seeds_alone(method, tmp_path):
    plain, disturbed = make(tmp_path / "a", method), make(tmp_path / "b", method, callbacks=[Disturbance()])
    plain.train(), disturbed.train()
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(disturbed)) == 0


def test_every_batch_has_draws_of_its_own(tmp_path):
    """Those of other processes are other batches: equal shares there would tie them together."""
    trainer, drawn = make(tmp_path, "mixmatch"), []
    for batch in trainer.get_train_dataloader():
        trainer.compute_loss(trainer.model.train(), batch)
        drawn.append(trainer.batch_generator.random())
    seeds = [batch["seeds"].tolist() for batch in trainer.get_train_dataloader()]
    assert len(set(drawn)) == len(drawn) == 2 and len({seed for of_batch in seeds for seed in of_batch}) == 16


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


# --- draws -----------------------------------------------------------------------------------------------------------


def test_passes_are_shuffled_whole_and_the_same_from_any_start():
    indices, seeds = shuffled_passes(5, 0, 20, [3, 0])
    passes = indices.reshape(4, 5)
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes.tolist()) and len({*map(tuple, passes.tolist())}) == 4
    assert len(set(seeds.tolist())) == 20
    assert shuffled_passes(5, 7, 18, [3, 0]).tolist() == [indices[7:18].tolist(), seeds[7:18].tolist()]
    assert shuffled_passes(5, 0, 20, [4, 0]).tolist() != [indices.tolist(), seeds.tolist()]


def test_epochs_follow_each_other():
    whole = list(DrawSampler(5, 7, 3, num_draws=12, get_epoch=lambda: 0))
    halves = [draw for epoch in (0, 1) for draw in DrawSampler(5, 7, 3, num_draws=6, get_epoch=lambda e=epoch: e)]
    assert whole == halves and all(len(draw.unlabelled) == 3 for draw in whole)


def test_a_run_and_a_resumed_one_take_one_sequence(tmp_path, monkeypatch):
    """Five steps of 8 draws, in epochs of two; resumed after the third."""
    seen, fetch = [], DrawDataset.__getitems__
    monkeypatch.setattr(DrawDataset, "__getitems__", lambda self, draws: seen.extend(draws) or fetch(self, draws))
    expected = list(DrawSampler(12, 23, 2, num_draws=48, get_epoch=lambda: 0, seed=42))
    for start, resume in ((0, None), (24, str(tmp_path / "checkpoint-3"))):
        trainer = make(tmp_path, save_strategy="steps", save_steps=3)
        seen.clear()
        trainer.train(resume_from_checkpoint=resume)
        assert seen[: 40 - start] == expected[start:40]


@pytest.mark.parametrize(
    ("accumulation", "batch", "workers"), [(1, 8, 2), (2, 4, 0), (4, 2, 2)], ids=["workers", "halves", "quarters"]
)
@pytest.mark.parametrize("method", ["fixmatch", "mean_teacher"])
def test_batches_accumulation_and_workers_change_nothing(method, accumulation, batch, workers, tmp_path):
    one = make(tmp_path / "one", method)
    other = make(
        tmp_path / "other",
        method,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
    )
    one.train(), other.train()
    assert tiny.losses(other) == pytest.approx(tiny.losses(one), rel=1e-4)
    assert tiny.largest_difference(tiny.weights(one), tiny.weights(other)) < (1e-5 if accumulation > 1 else 1e-12)


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
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


# --- the average -----------------------------------------------------------------------------------------------------


class Recorder(TrainerCallback):
    """The weights after every step, and what an evaluation sees."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(tiny.weights(model))


def test_average_by_a_hand_loop(tmp_path):
    """Decay .75: the mean of up to four steps, then exponential; evaluation and saved models have it."""
    recorder = Recorder()
    arguments = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    trainer = make(tmp_path, model="resnet", ema_decay=0.75, callbacks=[recorder], **arguments)
    trainer.train()
    averages = [recorder.steps[0]]
    for step, weights in enumerate(recorder.steps[1:], start=2):
        keep = min(0.75, 1 - 1 / step)
        averages.append({name: keep * averages[-1][name] + (1 - keep) * value for name, value in weights.items()})
    mean_of_three = {n: sum(weights[n] for weights in recorder.steps[:3]) / 3 for n in averages[0]}
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    for name, value in tiny.weights(trainer).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, averages[-1][name], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(saved[name], mean_of_three[name], rtol=1e-4, atol=1e-6)
        else:
            assert value == 6
    again = load_file(tmp_path / "checkpoint-3" / "weight_average.safetensors")
    assert all(torch.equal(again[f"weights.{name}"], value) for name, value in recorder.steps[2].items())


def test_evaluation_sees_the_average_and_training_goes_on_without_it(tmp_path):
    recorder = Recorder()
    plain = make(tmp_path / "a", callbacks=[recorder])
    plain.train()
    looks = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": tiny.images(COUNTS, seed=5)}
    watched = make(tmp_path / "b", **looks)
    watched.train()
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(watched)) == 0
    last = [entry["eval_loss"] for entry in watched.state.log_history if "eval_loss" in entry][-1]
    assert watched.evaluate()["eval_loss"] == last
    watched.model.load_state_dict(recorder.steps[-1])
    assert watched.evaluate()["eval_loss"] != last


def test_average_of_half_precision_keeps_small_steps():
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverageCallback(0.999)
    average.on_train_begin(None, TrainerState(), None, model)
    torch.nn.init.ones_(model.weight)
    for step in range(1001, 2001):
        average.on_step_end(None, TrainerState(global_step=step), None)
    assert average.values["weight"].item() == pytest.approx(1 - 0.999**1000, rel=1e-4)
    with average.in_place_of_weights():
        assert model.weight.item() == pytest.approx(0.632, abs=0.004) and model.weight.dtype == torch.bfloat16
    assert model.weight.item() == 1


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


def test_best_checkpoint_is_what_was_evaluated_and_loads_without_this_package(tmp_path):
    evaluation = {"eval_dataset": tiny.images((4, 4, 4, 4), seed=5), "eval_strategy": "steps", "eval_steps": 1}
    saving = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    trainer = make(tmp_path, model="vit", **evaluation, **saving)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-6)
    alone = AutoModelForImageClassification.from_pretrained(trainer.state.best_model_checkpoint)
    assert tiny.largest_difference(tiny.weights(alone), tiny.weights(trainer)) == 0


def test_a_checkpoint_of_another_trainer(tmp_path):
    make(tmp_path, save_strategy="steps", save_steps=5).train()
    (tmp_path / "checkpoint-5" / "weight_average.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weight_average.safetensors, so another trainer wrote it: res"):
        make(tmp_path).train(resume_from_checkpoint=True)


# --- models and data -------------------------------------------------------------------------------------------------


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


def test_default_views_take_images_of_any_size():
    from PIL import Image

    torch.manual_seed(0)
    for view in (ShiftAndFlip(tiny.processor()), StrongView(tiny.processor())):
        for size in ((16, 16), (50, 31)):
            image = Image.effect_noise(size, 40).convert("RGB")
            first, second = view(image), view(image)
            assert first.shape == (3, tiny.SIDE, tiny.SIDE) and not torch.equal(first, second)


def test_other_columns_and_pairs(tmp_path):
    """Unlabelled images in a column of another name, and items that are pairs: the same run."""
    renamed = unlabeled(labels=True).rename_column("image", "picture")
    pairs = [(row["image"], None) for row in unlabeled(labels=True)]
    runs = [make(tmp_path, unlabeled_dataset=data) for data in (unlabeled(), renamed, pairs)]
    for run in runs:
        run.train()
    assert tiny.losses(runs[0]) == tiny.losses(runs[1]) == tiny.losses(runs[2])


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

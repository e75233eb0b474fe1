"""A resumed run goes on bit for bit, and what is loaded from a checkpoint is what was saved."""

import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from selmix_hf.training.checkpoints import load_pair_state
from selmix_hf.training.state import PairState

VIT_DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
CASES = {
    "plain": ("resnet", {}),
    "frozen": ("resnet", {"freeze_backbone": True}),
    "vit, dropout": (("vit", VIT_DROPOUT), {}),
    "vit, dropout, frozen": (("vit", VIT_DROPOUT), {"freeze_backbone": True}),
    "augmentation": ("convnext", {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}),
    "augmentation, workers": (
        ("vit", VIT_DROPOUT),
        {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor, "dataloader_num_workers": 2},
    ),
    "torchvision's augmentation, workers": (
        "convnext",
        {
            "train_transform": tiny.torchvision_view(),
            "eval_transform": tiny.to_tensor,
            "dataloader_num_workers": 2,
        },
    ),
    "timm's augmentation": ("convnext", {"train_transform": tiny.timm_view(), "eval_transform": tiny.to_tensor}),
    "accumulation": (
        ("vit", VIT_DROPOUT),
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "dataloader_num_workers": 2},
    ),
    "views, frozen": (
        "convnext",
        {
            "freeze_backbone": True,
            "feature_views": 2,
            "train_transform": tiny.random_view,
            "eval_transform": tiny.to_tensor,
        },
    ),
    "head dropout, frozen": (("test_vit", {"drop_rate": 0.3}), {"freeze_backbone": True}),
    "memory of the multipliers": ("resnet", {"min_memory": 0.5, "constraints": {"coverage": 0.95}}),
    "cutmix": (
        "convnext",
        {"mixing": "cutmix", "train_transform": tiny.random_view, "eval_transform": tiny.to_tensor},
    ),
    "puzzlemix": (("vit", VIT_DROPOUT), {"mixing": "puzzlemix"}),
    "input, reused, accumulation": (
        "resnet",
        {
            "mixing": "input",
            "reuse_samples": True,
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 4,
        },
    ),
    "adam": ("resnet", {"optim": "adamw_torch", "learning_rate": 0.01, "lr_scheduler_type": "cosine"}),
}


def run_of(folder, case, **more):
    kind, options = CASES[case]
    name, arguments = (kind, {}) if isinstance(kind, str) else kind
    steps = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    steps |= {"save_total_limit": 10, "load_best_model_at_end": False, "max_steps": 10}
    return record(tiny.trainer(folder, tiny.model(name, **arguments), **{**steps, **options, **more}))


def record(run):
    """Keep the labels, coefficients and P of every micro-batch."""
    run.batches, plain_loss = [], run.compute_loss

    def compute_loss(model, inputs, **kwargs):
        if "mixing_coefficient" in inputs:
            parts = (inputs["labels"], inputs["mixing_coefficient"], run.pair_state.probability)
            run.batches.append((run.state.global_step, parts))
        return plain_loss(model, inputs, **kwargs)

    run.compute_loss = compute_loss
    return run


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_bitwise_the_same(case, tmp_path):
    """Stopped at step 6 (in the middle of a period of 4) and, the cheap cases, at 3 and at the boundary of step 8."""
    whole = run_of(tmp_path / "whole", case)
    whole.train()
    assert len({log["step"] for log in whole.state.log_history if "gain_set_psi" in log}) == 3
    for step in (6,) if "workers" in case or "accumulation" in case else (3, 6):
        check_resumed(whole, tmp_path, case, step)


@pytest.mark.parametrize(
    "case", ["plain", "frozen", "vit, dropout", "augmentation, workers", "accumulation", "cutmix", "puzzlemix"]
)
def test_a_run_resumed_at_a_boundary_is_bitwise_the_same(case, tmp_path):
    options = {"save_steps": 4, "eval_steps": 4}
    whole = run_of(tmp_path / "whole", case, **options)
    whole.train()
    check_resumed(whole, tmp_path, case, 4, **options)


def check_resumed(whole, tmp_path, case, step, **options):
    torch.manual_seed(1234)  # whatever the new process did before
    resumed = run_of(tmp_path / f"resumed-{step}", case, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))

    def losses(run):
        return {log["step"]: log["loss"] for log in run.state.log_history if "loss" in log}

    assert resumed.batches and resumed.batches[0][0] == step
    expected = [parts for at, parts in whole.batches if at >= step]
    for (_, found), wanted in zip(resumed.batches, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert losses(resumed) == losses(whole)
    for name, multiplier in whole.pair_state.multipliers.items():
        assert torch.equal(multiplier, resumed.pair_state.multipliers[name])
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0


def test_dropout_of_the_cases_is_real(tmp_path):
    """Without it the cases above would prove nothing about random states."""
    with_dropout = run_of(tmp_path / "a", "vit, dropout", max_steps=2, save_strategy="no", eval_strategy="no")
    without = tiny.trainer(tmp_path / "b", "vit", max_steps=2, **tiny.BARE)
    with_dropout.train()
    without.train()
    assert tiny.losses(with_dropout) != tiny.losses(without)


def test_start_and_best_survive_a_resume(tmp_path):
    options = {"freeze_backbone": True, "save_strategy": "epoch", "max_steps": 12, "learning_rate": 100.0}
    run = tiny.trainer(tmp_path, "convnext", **options)
    start = tiny.weights(run)
    run.state.best_metric = None
    run.train()
    last = tmp_path / "checkpoint-12"
    best = run.state.best_model_checkpoint
    shutil.rmtree(last)
    again = tiny.trainer(tmp_path, "convnext", **options)
    steps = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps[-1]}"))
    assert again.state.best_model_checkpoint == best
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(again)) == 0
    assert (best.endswith("checkpoint-0")) == (tiny.largest_difference(start, tiny.weights(run)) == 0)


@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "swin", "dinov2", "convnext", "test_convnext"])
def test_the_best_model_is_really_loaded(kind, tmp_path):
    """Trainer's own loading skips, without a word, weights that save_pretrained stores under older names."""
    run = tiny.trainer(tmp_path, kind, save_strategy="steps", eval_strategy="steps", save_steps=2, eval_steps=2)
    run.args.max_steps, after_step = 4, {}
    determine = run._determine_best_metric

    def prefer_step_2(metrics, trial):  # the checkpoint to load is neither the first nor the last
        metrics["eval_selection_score"] = {0: 0.1, 2: 0.9}.get(run.state.global_step, 0.2)
        after_step[run.state.global_step] = tiny.weights(run)
        return determine(metrics, trial)

    run._determine_best_metric = prefer_step_2
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert tiny.largest_difference(after_step[2], after_step[4]) > 1e-4
    assert tiny.largest_difference(after_step[2], tiny.weights(run)) == 0
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert tiny.largest_difference(tiny.weights(saved), tiny.weights(run)) == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"refresh_steps": 2},
        {"per_device_train_batch_size": 4},
        {"gradient_accumulation_steps": 2},
        {"seed": 7},
        {"objective": "mean_recall"},
        {"constraints": {"coverage": 0.9}},
        {"beta_min": 0.5},
        {"pair_sampling": "uniform"},
        {"freeze_backbone": False},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_changed_periods_are_refused(changed, tmp_path):
    options = {"freeze_backbone": True, "max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    tiny.trainer(tmp_path, **options).train()
    run = tiny.trainer(tmp_path, **{**options, **changed})
    with pytest.raises(ValueError, match="this run has .* a resumed run must keep them, or its periods would begin"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_reused_samples_need_the_same_batches(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "reuse_samples": True}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    tiny.trainer(tmp_path, **options).train()
    run = tiny.trainer(tmp_path, **options, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="a resumed run must keep them"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_same_geometry_by_other_means_is_accepted(tmp_path):
    options = {
        "freeze_backbone": True,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "no",
    }
    options["load_best_model_at_end"] = False
    whole = tiny.trainer(tmp_path, **options)
    whole.train()
    split = {**options, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    resumed = tiny.trainer(tmp_path / "b", **split)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) < 1e-6


def test_a_checkpoint_without_pair_state_is_refused(tmp_path):
    options = {"freeze_backbone": True, "max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    tiny.trainer(tmp_path, **options).train()
    file = tmp_path / "checkpoint-3" / "selmix_state.safetensors"
    assert load_file(file)["probability"].sum() == pytest.approx(1, abs=1e-5)
    file.unlink()
    (file.parent / "manifest.json").unlink()
    (file.parent / "options.json").unlink()
    with pytest.raises(FileNotFoundError, match="the checkpoint was not written by SelMixTrainer, or in part"):
        tiny.trainer(tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_what_an_older_checkpoint_does_not_have_is_not_compared(tmp_path):
    PairState(3, geometry={"refresh_steps": 4}).save(tmp_path)
    assert load_pair_state(tmp_path, {"refresh_steps": 4, "objective": "min_recall"}).period == 3
    with pytest.raises(ValueError, match="was made with {'refresh_steps': 4}, this run has {'refresh_steps': 5}:"):
        load_pair_state(tmp_path, {"refresh_steps": 5, "objective": "min_recall"})

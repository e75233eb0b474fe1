"""Trainer's own options: each is known, and what would have no effect is refused with a sentence."""

import dataclasses
import os

import pytest
import semi_supervised_run
import tiny
from transformers import TrainingArguments

from selmix_hf import SelMixConfig, Stage1Trainer
from selmix_hf.config import options_of
from selmix_hf.trainer_options import (
    AS_IN_TRAINER,
    ELSEWHERE,
    FREE_ON_RESUME,
    RULES,
    SAID_ON_RESUME,
    check_schedule,
    expanded,
)

QUIET = {"use_cpu": True, "report_to": "none"}
NO_SAVING = {"save_strategy": "no", "load_best_model_at_end": False}
FOLLOWING = {"lr_scheduler_type": "reduce_lr_on_plateau"}


def test_every_option_of_trainer_is_known():
    """An option that a new version brings is judged before it is used: see the module's docstring."""
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    ruled = {rule.name for rule in RULES}
    assert not theirs - (AS_IN_TRAINER | ruled | ELSEWHERE.keys())
    assert not AS_IN_TRAINER & (ruled | ELSEWHERE.keys())
    assert ruled <= theirs | options_of(SelMixConfig).keys()


def test_what_a_resumed_run_keeps_of_trainers_options():
    """All that FREE_ON_RESUME and SAID_ON_RESUME do not name: a new one is judged here."""
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert not FREE_ON_RESUME & SAID_ON_RESUME
    assert theirs - FREE_ON_RESUME - SAID_ON_RESUME <= set(
        """
        per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps learning_rate
        lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args optim_target_modules weight_decay
        adam_beta1 adam_beta2 adam_epsilon max_grad_norm average_tokens_across_devices label_smoothing_factor bf16 fp16
        neftune_noise_alpha metric_for_best_model greater_is_better ignore_data_skip seed data_seed accelerator_config
        dataloader_drop_last dataloader_in_order train_sampling_strategy length_column_name
        """.split()
    )


def selmix(folder, **options):
    return SelMixConfig(str(folder), **QUIET, **options)


def stage_1(folder, **options):
    own = {"train_transform": tiny.to_tensor, "eval_transform": tiny.to_tensor}
    own |= {name: options.pop(name) for name in ("compute_metrics",) if name in options}
    args = TrainingArguments(str(folder), **QUIET, **options)
    return Stage1Trainer(tiny.model(), args, train_dataset=tiny.images((2, 2, 2, 2)), **own)


EVERYWHERE = (
    ({"save_total_limit": 0}, "save_total_limit=0 would keep every checkpoint: set save_strategy='no' for none, 1 or"),
    ({"save_total_limit": -1}, "save_total_limit=-1 would keep"),
    (
        {"save_strategy": "best", "eval_strategy": "no", "metric_for_best_model": "loss"},
        "save_strategy='best' needs evaluations .* eval_strategy='no' makes none: set eval_strategy to 'epoch'",
    ),
    (
        {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": True},
        "load_best_model_at_end=True needs evaluations to find what is best",
    ),
    ({"fp16": True}, "fp16=True is for GPUs, and this run is on a CPU: leave it out, or set bf16=True"),
    ({"fp16_full_eval": True}, "fp16_full_eval=True would leave the weights in half precision after an evaluation"),
    ({"bf16_full_eval": True}, "bf16_full_eval=True would leave .* bf16=True evaluates in bf16 too"),
    ({"label_smoothing_factor": 1.0}, r"label_smoothing_factor=1.0 must lie in \[0, 1\): it is the share"),
    ({"label_smoothing_factor": -0.1}, "label_smoothing_factor=-0.1 must lie"),
    (
        {"warmup_steps": 5, "lr_scheduler_type": "constant"},
        "warmup_steps=5 has no effect with a schedule that has no warm-up .* such as 'constant_with_warmup'",
    ),
    ({"warmup_steps": 5, "eval_strategy": "epoch", "save_strategy": "epoch", **FOLLOWING}, "warmup_steps=5 has no"),
    ({"lr_scheduler_type": "greedy", "eval_strategy": "epoch", "warmup_steps": 0.1}, "warmup_steps=0.1 has no"),
    ({"label_names": ["label"]}, r"label_names=\['label'\] would hide the labels of a batch from evaluation"),
    ({"batch_eval_metrics": True}, "batch_eval_metrics=True hands metrics a part of the set at a time"),
    ({"eval_do_concat_batches": False}, "eval_do_concat_batches=False hands metrics a part of the set"),
)


@pytest.mark.parametrize(("options", "sentence"), EVERYWHERE)
@pytest.mark.parametrize("make", [selmix, stage_1])
def test_what_no_trainer_can_use_is_refused(make, options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prediction_loss_only": True}, "prediction_loss_only=True has no effect: every evaluation measures"),
        (
            {"train_sampling_strategy": "sequential"},
            r"train_sampling_strategy='sequential' has no effect: .* see SelMixConfig\(sampling=...\): leave it out",
        ),
        ({"length_column_name": "size"}, "length_column_name='size' has no effect"),
        (
            {"dataloader_drop_last": True},
            "dataloader_drop_last=True has no effect on training, .* predict would lose",
        ),
        ({"dataloader_in_order": False}, "dataloader_in_order=False has no effect: batches come in the order"),
        (
            {"dataloader_multiprocessing_context": "spawn"},
            "dataloader_multiprocessing_context='spawn' has no effect: workers are started as torch starts them",
        ),
        (
            {"optim_target_modules": "all-linear"},
            "optim_target_modules='all-linear' is for optimizers that make their",
        ),
        (
            {"neftune_noise_alpha": 5.0, "freeze_backbone": True},
            "neftune_noise_alpha=5.0 has no effect with freeze_backbone=True, where training does",
        ),
        (
            {"warmup_steps": 101, "max_steps": 100},
            "warmup_steps must be at most max_steps=100, found 101: the run wou",
        ),
        (
            {"eval_delay": 3, "refresh_steps": 50, "max_steps": 100, "save_strategy": "best", **NO_SAVING},
            "eval_delay counts periods of refresh_steps=50 steps .* at most 2, where the run ends; found 3: nothing",
        ),
    ],
)
def test_what_selmix_cannot_use_is_refused(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        selmix(tmp_path, **options)


@pytest.mark.parametrize("name", ["train_sampling_strategy", "length_column_name"])
def test_what_whole_passes_cannot_use_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}='sequential' has no effect: the semi-supervised trainers draw"):
        semi_supervised_run.make(tmp_path, **{name: "sequential"})


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_steps": 100, "max_steps": 100},
        {"warmup_steps": 0.5},
        {"refresh_steps": 50},
        {"max_steps": 3},  # fewer than the period that is worked out
        {"eval_strategy": "no", **NO_SAVING},
        {"label_names": ["labels"]},
        {"neftune_noise_alpha": 5.0},
        {"activation_checkpointing": True, "freeze_backbone": True},  # saves memory or does nothing
        {"dataloader_multiprocessing_context": "fork"},
        {"save_total_limit": None},
    ],
)
def test_what_works_is_not_refused(options, tmp_path):
    selmix(tmp_path, **options).work_out(10)


def test_a_metric_of_ones_own_may_take_a_part_of_the_set_at_a_time(tmp_path):
    def metrics(found, compute_result):
        return {"seen": 1.0}

    stage_1(tmp_path, batch_eval_metrics=True, compute_metrics=metrics)


def test_a_period_beyond_the_run_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("selmix_hf.config_checks.logger.warning_once", said.append)
    selmix(tmp_path, max_steps=40)
    selmix(tmp_path, max_steps=40, refresh_steps=40)
    assert not said
    selmix(tmp_path, max_steps=40, refresh_steps=41)
    assert said == ["refresh_steps=41 is beyond max_steps=40: the gain set is looked at once, when the run begins."]


# --- schedules that follow a metric ------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "values"), [(None, (0.1, 0.2, 0.3)), ("loss", (0.3, 0.2, 0.1))])
def test_the_rate_falls_where_the_metric_gets_worse(metric, values, tmp_path):
    own = {} if metric is None else {"metric_for_best_model": metric}
    run = tiny.trainer(tmp_path, lr_scheduler_kwargs={"patience": 0, "factor": 0.5}, **FOLLOWING, **own)
    run.create_optimizer()
    scheduler = run.create_scheduler(8)
    for value in values:
        scheduler.step(value)
    assert run.optimizer.param_groups[0]["lr"] == 0.1
    scheduler.step(values[1])
    assert run.optimizer.param_groups[0]["lr"] == 0.05


def test_a_run_lowers_its_rate_once_the_score_stands_still(tmp_path):
    """The objective never moves: one evaluation sets the mark, and each after it halves the rate."""
    options = {
        "objective": lambda confusion: confusion.sum() * 1.0,
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
    }
    run = tiny.trainer(tmp_path, max_steps=12, **options, **FOLLOWING)
    run.train()
    assert run.lr_scheduler.get_last_lr()[0] == pytest.approx(0.1 / 4)


def test_the_opposite_direction_is_refused(tmp_path):
    with pytest.raises(ValueError, match="have mode='min', and with greater_is_better=True .* asks for 'max': leave"):
        selmix(tmp_path, lr_scheduler_kwargs={"mode": "min"}, **FOLLOWING)
    for given in ({"mode": "max"}, '{"mode": "max"}', None):
        assert selmix(tmp_path, lr_scheduler_kwargs=given, **FOLLOWING).lr_scheduler_kwargs == {"mode": "max"}


def test_stage_1_follows_its_metric_too(tmp_path):
    options = {"eval_strategy": "epoch", "metric_for_best_model": "mean_recall"}
    args = TrainingArguments(str(tmp_path), **QUIET, **FOLLOWING, **options)
    own = {
        "train_transform": tiny.to_tensor,
        "eval_transform": tiny.to_tensor,
        "eval_dataset": tiny.images((2, 2, 2, 2)),
    }
    Stage1Trainer(tiny.model(), args, train_dataset=tiny.images((2, 2, 2, 2)), **own)
    assert args.lr_scheduler_kwargs == {"mode": "max"}


# --- the length of a run -----------------------------------------------------------------------------------------


def test_a_schedule_beyond_a_run_of_stage_1_is_refused_before_it(tmp_path):
    with pytest.raises(ValueError, match="warmup_steps must be at most max_steps=2, found 3"):
        stage_1(tmp_path, max_steps=2, warmup_steps=3).train()
    args = TrainingArguments(str(tmp_path), **QUIET, eval_strategy="epoch", eval_delay=3)
    with pytest.raises(ValueError, match="eval_delay counts epochs with eval_strategy='epoch' and must be at most 2"):
        check_schedule(args, 10, 2)
    check_schedule(args, 10, 3)
    check_schedule(args, None, None)


# --- folders -----------------------------------------------------------------------------------------------------


def test_folders_are_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    found = SelMixConfig("$RUNS/out", freeze_backbone=True, feature_cache_dir="~/features", **QUIET)
    assert found.output_dir == f"{tmp_path}/out" and found.feature_cache_dir == os.path.expanduser("~/features")
    assert stage_1("${RUNS}/stage1").args.output_dir == f"{tmp_path}/stage1"
    assert expanded("split", "costs$/a~b") == "costs$/a~b" and expanded("split", None) is None
    for path in ("$NOWHERE/out", "${NOWHERE}", "~nobody-of-that-name/out"):
        with pytest.raises(
            ValueError, match="output_dir has a variable that is not set, found .* a folder of that ve"
        ):
            SelMixConfig(path, **QUIET)
    assert not os.path.exists("$RUNS")

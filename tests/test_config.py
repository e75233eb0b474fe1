"""SelMixConfig: documented defaults, checks before any weight loads, and the command line."""

import ast
import copy
import dataclasses
import inspect
import json
import pickle
import re
from typing import get_type_hints

import numpy as np
import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments

from selmix_hf import SelMixConfig
from selmix_hf.options import Option, WorkedOut, count, number, options_of

QUIET = {"use_cpu": True}
OPTIONS = options_of(SelMixConfig)
OF_TRAINER = {"max_steps", "learning_rate"}
WORKED_OUT = ("learning_rate", "refresh_steps", "pseudo_label_steps", "max_steps", "target_share")
WEIGHTS = ([0.5, 0.3, 0.2], "[0.5, 0.3, 0.2]", torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def test_the_docstring_lists_exactly_the_changed_defaults():
    """Between "Defaults that differ" and "Args", every option in backquotes with its new default."""
    theirs = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    changed = {
        field.name: field.default
        for field in dataclasses.fields(SelMixConfig)
        if field.name in theirs and field.default != theirs[field.name]
    }
    listing = inspect.getdoc(SelMixConfig).split("Defaults that differ")[1].split("Args:")[0]
    entries = re.findall(r"`(\w+)` (?:stays )?(\"[^\"]*\"|True|False|None|-?[\d.]*\d)", listing)
    documented = {name: ast.literal_eval(value) for name, value in entries}
    assert documented.pop("report_to") == SelMixConfig(**QUIET).report_to[0:1] or "none"
    assert documented == changed


def test_learning_rates_are_given_or_left_to_the_data():
    config = SelMixConfig(**QUIET)
    assert (config.learning_rate, config.backbone_learning_rate) == (None, pytest.approx(0.0001))
    assert SelMixConfig(learning_rate=0.6, **QUIET).backbone_learning_rate == pytest.approx(0.02)
    assert SelMixConfig(backbone_learning_rate=0.0, **QUIET).backbone_learning_rate == 0


def test_what_was_worked_out_follows_in_a_configuration_made_of_another():
    config = SelMixConfig(learning_rate=0.3, **QUIET)
    assert dataclasses.replace(config, learning_rate=0.6).backbone_learning_rate == pytest.approx(0.02)
    assert dataclasses.replace(config, backbone_learning_rate=0.01, learning_rate=0.6).backbone_learning_rate == 0.01
    given = dataclasses.replace(config, backbone_learning_rate=0.01)
    assert dataclasses.replace(given, learning_rate=0.6).backbone_learning_rate == 0.01
    assert type(config.to_dict()["backbone_learning_rate"]) is float
    run = SelMixConfig(**QUIET)
    run.learning_rate = WorkedOut(0.7)  # as a run does
    again = dataclasses.replace(run, seed=1)
    assert (again.learning_rate, again.backbone_learning_rate) == (None, pytest.approx(0.0001))


@pytest.mark.parametrize(
    ("options", "num_classes", "steps", "period"),
    [
        ({"freeze_backbone": True}, 2, 2000, 10),
        ({"freeze_backbone": True}, 10, 2000, 10),
        ({"freeze_backbone": True}, 57, 4776, 24),  # 128,000 sqrt(5.7) pairs = 4,775 steps; 200 looks: 24 steps each
        ({"freeze_backbone": True}, 1000, 20_000, 100),
        ({}, 10, 2000, 50),
        ({}, 1000, 20_000, 100),
        ({"per_device_train_batch_size": 32, "gradient_accumulation_steps": 4}, 10, 1000, 50),
        ({"max_steps": 123}, 1000, 123, 50),
        ({"max_steps": 123, "refresh_steps": 7}, 1000, 123, 7),
        ({"refresh_steps": 300}, 10, 2100, 300),
    ],
)
def test_length_and_periods_follow_the_number_of_classes(options, num_classes, steps, period):
    config = SelMixConfig(**options, **QUIET)
    made = config.for_classes(num_classes)
    assert (made.max_steps, made.refresh_steps) == (steps, period)
    assert made.pseudo_label_steps == period * (1 if made.freeze_backbone else 10)
    assert config.max_steps == options.get("max_steps", 0)  # as it was
    assert made.for_classes(4 * num_classes).max_steps == steps  # now it is given


# --- what an option says of itself -------------------------------------------------------------------------------


def test_every_option_says_what_it_is():
    """Its help, and where it is a number its range; its kind is that of its type."""
    own = {one.name for one in dataclasses.fields(SelMixConfig)} - {
        one.name for one in dataclasses.fields(TrainingArguments)
    }
    assert own == OPTIONS.keys() - OF_TRAINER
    hints = get_type_hints(SelMixConfig)
    kinds = {float: "number", int: "count", bool: "switch"}
    for one in dataclasses.fields(SelMixConfig):
        assert one.metadata["help"].strip(), one.name
        if one.name in OPTIONS:
            kind = next((kind for of, kind in kinds.items() if hints[one.name] in (of, of | None)), None)
            assert OPTIONS[one.name].kind == kind or (kind is None and OPTIONS[one.name].kind in ("choice", "other"))
            assert OPTIONS[one.name].interval != Option().interval or kind != "number", one.name


def test_the_docstring_names_every_option():
    arguments = inspect.getdoc(SelMixConfig).split("Args:")[1].split("Raises:")[0]
    described = re.findall(r"^    (\w+(?:, \w+)*): ", arguments, re.MULTILINE)
    assert {name for names in described for name in names.split(", ")} == OPTIONS.keys() - OF_TRAINER


def test_what_a_resumed_run_may_change_is_said_one_by_one():
    """A new option is compared unless it says otherwise; a checkpoint has these names, with these values. Those that
    are free may change where a run goes on inexactly, and a few have nothing to do with its weights."""
    free = {name for name, option in OPTIONS.items() if option.kept_on_resume is False}
    assert {name for name, option in OPTIONS.items() if option.kept_on_resume is None} == {
        *("feature_cache_dir", "absent_classes", "on_bad_image"),
    }
    assert free == {
        *("class_prior", "tail_share", "constraint_tolerance", "min_rate", "min_memory"),
        *("constraint_update", "constraint_rate", "inverse_temperature", "target_share"),
        *("learning_rate", "backbone_learning_rate", "max_steps", "head_start"),
        *("feature_views", "feature_dtype"),
    }
    kept = SelMixConfig(confusion_temperature=0.2, refresh_steps=5, **QUIET).kept_on_resume(with_pseudo_labels=False)
    assert kept == {
        "objective": "min_recall",
        "constraints": None,
        "worst_share": 0.1,
        "freeze_backbone": False,
        "reuse_samples": False,
        "confusion": "soft",
        "confusion_temperature": 0.2,
        "refresh_steps": 5,
        "gain_set_use": "steer",
        "sampling": None,
        "pair_sampling": "selmix",
        "mixing": "feature",
        "beta_min": 0.6,
    }
    config = SelMixConfig(confusion="hard", pseudo_label_steps=10, **QUIET)
    assert "confusion_temperature" not in config.kept_on_resume(with_pseudo_labels=False)
    more = config.kept_on_resume(with_pseudo_labels=True).items() - config.kept_on_resume(False).items()
    assert dict(more) == {
        "pseudo_label_steps": 10,
        "pseudo_label_source": "model",
        "pseudo_label_threshold": 0.0,
        "pseudo_label_share": 1.0,
        "ema_decay": 0.999,
    }


def test_an_option_of_a_subclass_is_checked_refused_and_kept_like_any_other():
    """All that adding one takes."""

    @dataclasses.dataclass
    class More(SelMixConfig):
        share: float = number(0.5, "Of something.", "(0, 1]", of_pairs=True)
        looks: int = count(None, "At something.", at_least=2, worked_out=True, kept_on_resume=False)

    (config,) = HfArgumentParser(More).parse_args_into_dataclasses(["--use_cpu", "True", "--share", "0.25"])
    assert config.kept_on_resume(with_pseudo_labels=False)["share"] == 0.25 and config.looks is None
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], found 1.5\."):
        More(share=1.5, **QUIET)
    with pytest.raises(ValueError, match="looks must be at least 2, found 1"):
        More(looks=1, **QUIET)
    with pytest.raises(ValueError, match="leave share at the default"):
        More(share=0.25, sampling="natural", **QUIET)


# --- values that are worked out ----------------------------------------------------------------------------------


def test_none_is_the_default_of_what_is_worked_out():
    fields = {one.name: one.default for one in dataclasses.fields(SelMixConfig)}
    assert {name: fields[name] for name in WORKED_OUT} == dict.fromkeys(WORKED_OUT)
    assert {name for name, option in OPTIONS.items() if option.worked_out} == {*WORKED_OUT}


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_older_configurations_say_it_with_0(num_classes):
    left, older = SelMixConfig(**QUIET), SelMixConfig(**dict.fromkeys(WORKED_OUT, 0), **QUIET)
    assert older.backbone_learning_rate == left.backbone_learning_rate
    made = left.for_classes(num_classes)
    for again in (older, pickle.loads(pickle.dumps(older))):
        assert [getattr(again.for_classes(num_classes), name) or None for name in WORKED_OUT] == [
            getattr(made, name) for name in WORKED_OUT
        ]
    SelMixConfig(**dict.fromkeys(WORKED_OUT, 0), sampling="natural", **QUIET)  # none of them was set


def test_none_goes_through_what_is_done_with_a_configuration(tmp_path):
    config = SelMixConfig(str(tmp_path), **QUIET)
    assert json.loads(config.to_json_string())["learning_rate"] is None
    assert config.to_sanitized_dict()["target_share"] == "None"
    for again in (copy.copy(config), pickle.loads(pickle.dumps(config)), dataclasses.replace(config)):
        assert [getattr(again, name) for name in WORKED_OUT] == [None, None, None, 0, None]
    made = dataclasses.replace(config.for_classes(10), learning_rate=None, pseudo_label_steps=None, refresh_steps=20)
    assert (made.max_steps, made.refresh_steps, made.pseudo_label_steps) == (2000, 20, None)
    assert made.for_classes(10).pseudo_label_steps == 200


def test_the_best_checkpoint_is_the_highest_score():
    """Set after TrainingArguments' own checks, greater_is_better would be None and the worst checkpoint would win."""
    config = SelMixConfig(**QUIET)
    assert (config.metric_for_best_model, config.greater_is_better) == ("selection_score", True)


@pytest.mark.parametrize(
    ("metric", "given", "resolved"),
    [
        ("loss", None, False),
        ("eval_loss", None, False),
        ("eval_test_loss", None, False),
        ("zero_recall_classes", None, False),
        ("eval_a_zero_recall_classes", None, False),
        ("violation", None, False),
        ("min_recall", None, True),
        ("loss", True, True),
        ("min_recall", False, False),
        (None, None, False),
    ],
)
def test_the_best_loss_is_the_smallest(metric, given, resolved):
    config = SelMixConfig(metric_for_best_model=metric, greater_is_better=given, **QUIET)
    assert config.greater_is_better is resolved


def test_nothing_is_reported_to_trackers_unless_asked():
    assert SelMixConfig(**QUIET).report_to in ([], ["none"], "none")


def test_command_line():
    words = "--output_dir out --objective mean_recall --inverse_temperature 100 --max_steps 20 --use_cpu True "
    words += "--learning_rate 0.02 --freeze_backbone True --min_memory 0.5 --class_prior balanced"
    (config,) = HfArgumentParser(SelMixConfig).parse_args_into_dataclasses(
        [*words.split(), "--constraints", '{"coverage": 0.95}']
    )
    assert isinstance(config, SelMixConfig) and config.output_dir == "out"
    assert config.constraints == {"coverage": 0.95} and config.temperature == 100.0
    assert (config.objective, config.max_steps, config.learning_rate) == ("mean_recall", 20, 0.02)
    assert config.freeze_backbone is True and config.min_memory == 0.5 and config.class_prior == "balanced"


def test_command_line_defaults_equal_the_classs():
    (config,) = HfArgumentParser(SelMixConfig).parse_args_into_dataclasses(["--use_cpu", "True"])
    plain = SelMixConfig(use_cpu=True)
    for field in dataclasses.fields(SelMixConfig):
        if field.name not in ("logging_dir", "run_name"):
            assert getattr(config, field.name) == getattr(plain, field.name), field.name


def test_a_dictionary_of_options(tmp_path):
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"objective": "h_mean", "constraints": {"coverage": 0.9}, "use_cpu": True}))
    (config,) = HfArgumentParser(SelMixConfig).parse_json_file(str(file))
    assert config.objective == "h_mean" and config.constraints == {"coverage": 0.9}
    again = SelMixConfig(**{k: v for k, v in config.to_dict().items() if k in ("objective", "constraints", "use_cpu")})
    assert again.constraints == {"coverage": 0.9}
    assert json.loads(config.to_json_string())["constraints"] == {"coverage": 0.9}


@pytest.mark.parametrize(("given", "temperature"), [("auto", "auto"), ("3.5", 3.5), (7, 7.0), (100.0, 100.0)])
def test_temperature(given, temperature):
    assert SelMixConfig(inverse_temperature=given, **QUIET).temperature == temperature


def test_objective_of_the_options():
    config = SelMixConfig(objective="min_recall", constraints='{"coverage": 0.95}', min_rate=7.0, **QUIET)
    objective = config.make_objective(class_counts=[5, 4, 3])
    assert objective.name == "min_recall_coverage" and objective.metric.rate == 7.0
    assert objective.class_prior == "balanced" and objective.tolerance == 0.01


def test_the_worst_share_goes_to_the_objective():
    config = SelMixConfig(objective="worst_share_recall", worst_share=0.25, **QUIET)
    assert config.make_objective().metric.share == 0.25
    assert SelMixConfig(**QUIET).worst_share == 0.1 and SelMixConfig(worst_share=1, **QUIET).worst_share == 1


@pytest.mark.parametrize("given", WEIGHTS)
def test_a_class_prior_of_ones_own(given):
    config = SelMixConfig(objective="macro_f1", class_prior=given, **QUIET)
    assert config.make_objective().class_prior == (0.5, 0.3, 0.2)
    assert json.loads(config.to_json_string())["class_prior"] == [0.5, 0.3, 0.2]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("class_balanced", "class_balanced"),
        ("0.25", "0.25"),
        (0.5, "0.5"),
        (1, "1.0"),
        ([1, 2, 0], [1.0, 2.0, 0.0]),
        ("[1, 2, 0]", [1.0, 2.0, 0.0]),
        (torch.tensor([1, 2, 0]), [1.0, 2.0, 0.0]),
        (None, None),
    ],
    ids=str,
)
def test_sampling_goes_into_json(given, kept):
    config = SelMixConfig(sampling=given, freeze_backbone=True, **QUIET)
    assert config.sampling == kept
    assert json.loads(config.to_json_string())["sampling"] == kept
    assert SelMixConfig(sampling=config.sampling, **QUIET).sampling == kept


PAIRS = {"pair_sampling": "uniform", "inverse_temperature": "3", "target_share": 0.3, "mixing": "input"}
PAIRS |= {"beta_min": 0.5, "reuse_samples": True, "min_rate": 5.0, "min_memory": 0.0, "constraint_rate": 1.0}
PAIRS |= {"constraint_update": "exponential"}


@pytest.mark.parametrize("name", PAIRS)
def test_options_of_pairs_are_refused_beside_single_samples(name):
    sentence = f"sampling='natural' draws single samples, nothing is mixed and no gains steer: leave {name} at the"
    with pytest.raises(ValueError, match=sentence):
        SelMixConfig(sampling="natural", **{name: PAIRS[name]}, **QUIET)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampling": "balanced"}, "sampling must be one of natural, square_root, class_balanced, .* 'balanced'"),
        ({"sampling": [1, -1]}, "sampling must hold a number a class, none negative .* found -1.0 for class 1"),
        ({"sampling": "[1, "}, r"sampling must be JSON such as '\[1, 1, 2\]', found '\[1, '"),
        (
            {"sampling": "0.5", "beta_min": 0.5, "mixing": "cutmix"},
            "leave mixing, beta_min at the default, or sampling out",
        ),
        ({"class_prior": [0.5, -0.1]}, r"class_prior must be .* K positive numbers, one a class, found \[0.5, -0.1\]"),
        ({"class_prior": [0.5, 0.0]}, "K positive numbers"),
        ({"class_prior": []}, "K positive numbers"),
        ({"class_prior": ["a", "b"]}, "K positive numbers"),
        ({"class_prior": 0.5}, "K positive numbers, one a class, found 0.5"),
        ({"class_prior": "[0.5, "}, r"class_prior must be JSON such as '\[0.5, 0.3, 0.2\]', found '\[0.5, '"),
        ({"objective": "min_recal"}, "unknown objective 'min_recal'; did you mean 'min_recall'"),
        ({"objective": "recall_of_the_mean"}, "unknown objective .*Known: g_mean, h_mean"),
        ({"constraints": {"coverge": 0.9}}, "unknown constraint 'coverge'; did you mean 'coverage'"),
        ({"constraints": "{coverage: 0.9}"}, "constraints must be JSON such as .* found '{coverage: 0.9}'"),
        ({"constraints": "[0.9]"}, r"constraints must map names to levels, found '\[0.9\]'"),
        ({"constraints": {"coverage": 95}}, r"the level of constraint 'coverage' must lie in \(0, 1\], found 95"),
        ({"class_prior": "uniform"}, "class_prior must be 'validation', 'balanced'"),
        ({"fsdp": "full_shard"}, "fsdp is not supported: the gain needs the head's whole weights"),
        ({"deepspeed": "zero3.json"}, "deepspeed is not supported"),
        ({"mixing": "mixup"}, "mixing must be one of feature, input, cutmix, .*puzzlemix.*, found 'mixup'"),
        ({"mixing": len}, r"found <built-in .*: a function of your own goes to SelMixTrainer\(mixing="),
        (
            {"mixing": "cutmix", "freeze_backbone": True},
            r"mixing='cutmix' makes new images, but freeze_backbone=True .*requires_grad_\(False\) on the backbone",
        ),
        ({"beta_min": 1.2}, r"beta_min must lie in \[0, 1\], found 1.2"),
        ({"beta_min": -0.1}, "beta_min must lie in"),
        ({"pair_sampling": "best"}, "pair_sampling must be one of selmix, uniform, greedy, found 'best'"),
        ({"inverse_temperature": "hot"}, "inverse_temperature must be 'auto' or a number >= 0, found 'hot'"),
        ({"inverse_temperature": -1}, "inverse_temperature must be 'auto' or a number >= 0"),
        ({"target_share": 1.5}, r"target_share must lie in \(0, 1\], found 1.5"),
        ({"min_memory": 1.0}, r"min_memory must lie in \[0, 1\), found 1.0"),
        ({"constraint_update": "newton"}, "constraint_update must be 'projected_gradient' or 'exponential'"),
        ({"tail_share": 0.0, "objective": "min_head_tail_recall"}, "tail_share must lie between 0 and 1"),
        ({"tail_share": 1.0}, "tail_share must lie between 0 and 1, found 1.0"),
        ({"worst_share": 0.0}, r"worst_share must lie in \(0, 1\], found 0.0"),
        ({"worst_share": 1.1}, r"worst_share must lie in \(0, 1\], found 1.1"),
        ({"worst_share": "a tenth"}, "worst_share must be a finite number, found 'a tenth'"),
        ({"objective": len}, r"objective must be a name in the options, found .*give it to SelMixTrainer\(objective="),
        ({"constraints": [0.9]}, r"constraints must map names to levels, found \[0.9\]"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number, found '0.1'"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number, found inf"),
        ({"beta_min": None}, "beta_min must be a finite number, found None"),
        ({"max_steps": 10.5}, "max_steps must be a whole number, found 10.5"),
        ({"refresh_steps": True}, "refresh_steps must be a whole number, found True"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1, found 0"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1, found 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1, found 0"),
        ({"freeze_backbone": "yes"}, "freeze_backbone must be True or False, found 'yes'"),
        ({"seed": -1}, r"seed must lie between 0 and 2\*\*32 - 1, found -1"),
        ({"data_seed": -5}, "data_seed must lie between 0 and"),
        (
            {"constraints": {"coverage": "high"}},
            r"the level of constraint 'coverage' must lie in \(0, 1\], found 'high'",
        ),
        ({"inverse_temperature": [1]}, r"inverse_temperature must be 'auto' or a number >= 0, found \[1\]"),
        ({"inverse_temperature": None}, "inverse_temperature must be 'auto' or a number >= 0, found None"),
        ({"learning_rate": -0.1}, "learning_rate must not be negative, found -0.1"),
        ({"backbone_learning_rate": -0.1}, "backbone_learning_rate must not be negative"),
        ({"min_rate": -1}, "min_rate must not be negative"),
        ({"constraint_rate": -1}, "constraint_rate must not be negative"),
        ({"constraint_tolerance": -0.01}, "constraint_tolerance must not be negative"),
        ({"feature_cache_dir": "features"}, "feature_cache_dir keeps the features of freeze_backbone=True"),
        ({"refresh_steps": -1}, "refresh_steps must be at least 0, found -1"),
        ({"max_steps": -1}, "max_steps must be at least 0, found -1"),
        ({"confusion": "fuzzy"}, "confusion must be 'soft' or 'hard', found 'fuzzy'"),
        ({"confusion_temperature": 0.0}, "confusion_temperature must be positive, found 0.0.*confusion='hard'"),
        ({"head_start": "new"}, "head_start must be 'best' or 'as_is', found 'new'"),
        ({"reuse_samples": True, "freeze_backbone": True}, "reuse_samples saves work of the backbone"),
        ({"feature_views": 2}, "feature_views stores views for freeze_backbone=True"),
        (
            {"num_train_epochs": 10},
            "num_train_epochs=10 would count SelMix periods of refresh_steps steps.*set max_steps instead",
        ),
        ({"remove_unused_columns": True}, "remove_unused_columns must stay False"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size would change the length of a period"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches would cut inputs and labels"),
        ({"dataloader_persistent_workers": True}, "dataloader_num_workers is 0: set it to 1 or more"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches would make a period too long"),
        ({"accelerator_config": '{"split_batches": true}'}, "split_batches would make a period too long"),
    ],
)
def test_bad_options_are_refused_before_any_weight_loads(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SelMixConfig(**options, **QUIET)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("max_step", "SelMixConfig has no option 'max_step', did you mean 'max_steps'?"),
        ("warmup_ratio", "SelMixConfig has no option 'warmup_ratio', did you mean 'warmup_steps'?"),
        ("zzz", "SelMixConfig has no option 'zzz'."),
    ],
)
def test_a_slip_in_a_name_is_told_the_nearest(option, sentence):
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        SelMixConfig(**{option: 4})
    assert list(inspect.signature(SelMixConfig).parameters)[:2] == ["output_dir", "per_device_train_batch_size"]


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_a_launcher_that_shards_the_weights_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(ValueError, match=f"{name} is not supported"):
        SelMixConfig(str(tmp_path))


def test_numbers_of_numpy_become_plain_ones(tmp_path):
    config = SelMixConfig(str(tmp_path), refresh_steps=np.int64(3), beta_min=np.float32(0.5), max_steps=np.int64(6))
    assert (config.refresh_steps, config.beta_min, config.max_steps) == (3, 0.5, 6)
    json.dumps([config.refresh_steps, config.beta_min, config.max_steps])


@pytest.mark.parametrize(("beta_min", "warned"), [(0.39, True), (0.4, False), (0.6, False)])
def test_mixing_too_strongly_is_warned_of(beta_min, warned, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr("selmix_hf.config_checks.logger.warning_once", said.append)
    SelMixConfig(str(tmp_path), beta_min=beta_min)
    assert [f"beta_min={beta_min} mixes strongly" in sentence for sentence in said] == [True] * warned

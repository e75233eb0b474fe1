"""Options that are set after a trainer was made: used where they can be, refused where not."""

import dataclasses

import pytest
import tiny
from transformers import TrainingArguments

from selmix_hf import Stage1Trainer
from selmix_hf.training.changed_options import USED_BY_PARTS, USED_WHEN_MADE

CHANGED = {"confusion": "hard", "gain_set_use": "train", "tail_share": 0.5, "seed": 3, "data_seed": 7, "bf16": True}


def stage1(folder, **options):
    args = TrainingArguments(
        str(folder), use_cpu=True, max_steps=1, disable_tqdm=True, report_to="none", save_strategy="no", **options
    )
    data = {"train_dataset": tiny.images(), "processing_class": tiny.processor()}
    return Stage1Trainer(tiny.model("convnext"), args, **data)


def test_options_that_a_trainer_has_used_are_not_changed_in_it(tmp_path):
    run = tiny.trainer(tmp_path, learning_rate=None, max_steps=2, **tiny.BARE)
    run.train()
    run.train()  # the rate that was worked out is no change
    for name, value in {"learning_rate": 0.5, "per_device_train_batch_size": 4, **CHANGED}.items():
        before = getattr(run.args, name)
        setattr(run.args, name, value)
        with pytest.raises(ValueError, match=rf"^{name} was set to .* after the trainer was made.*\(args, {name}="):
            run.train()
        setattr(run.args, name, before)


def test_stage1_and_its_smoothing(tmp_path):
    run = stage1(tmp_path)
    run.args.label_smoothing_factor = 0.2
    with pytest.raises(ValueError, match=r"label_smoothing_factor was set to 0.2 .*, which has used 0"):
        run.train()


@pytest.mark.parametrize("make", [stage1, tiny.trainer])
def test_what_arguments_cannot_be_made_of_is_refused_in_a_trainer_too(make, tmp_path):
    run = make(tmp_path, optim="sgd")
    run.args.adam_beta1 = 0.5
    with pytest.raises(ValueError, match="adam_beta1=0.5 has no effect with optim='sgd'"):
        run.train()
    run.args.adam_beta1, run.args.save_total_limit = 0.9, 0
    with pytest.raises(ValueError, match="save_total_limit=0 would keep every checkpoint"):
        run.train()


def test_values_are_looked_at(tmp_path):
    run = tiny.trainer(tmp_path)
    run.args.beta_min = 2
    with pytest.raises(ValueError, match=r"beta_min must lie in \[0, 1\], found 2"):
        run.train()
    run.args.beta_min, run.args.eval_strategy, run.args.eval_steps = 0.6, "steps", 99
    with pytest.raises(ValueError, match="eval_steps must be at most max_steps=8, found 99"):
        run.train()


def test_others_are_used(tmp_path):
    run = tiny.trainer(tmp_path / "changed", max_steps=2, **tiny.BARE)
    changed = {
        "max_steps": 3,
        "optim": "adamw_torch",
        "weight_decay": 0.1,
        "beta_min": 0.9,
        "confusion_temperature": 1.0,
    }
    for name, value in changed.items():
        setattr(run.args, name, value)
    run.train()
    given = tiny.trainer(tmp_path / "given", **changed, **tiny.BARE)
    given.train()
    assert tiny.losses(run) == tiny.losses(given) and len(tiny.losses(run)) == 3


def test_they_are_options():
    assert {*USED_WHEN_MADE, "label_smoothing_factor"} <= {one.name for one in dataclasses.fields(TrainingArguments)}
    assert {*USED_BY_PARTS} <= {one.name for one in dataclasses.fields(type(tiny.config("unused")))}

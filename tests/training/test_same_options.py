"""What a checkpoint keeps of the options, and what of them may be another in the run that goes on."""

import inspect

import pytest
import tiny
from transformers import Trainer, TrainingArguments

from selmix_hf import FixMatchTrainer, MeanTeacherTrainer, MixMatchTrainer, SelMixTrainer, Stage1Trainer
from selmix_hf.training.same_options import (
    FREE_PARAMETERS,
    KEPT_PARAMETERS,
    changes_of,
    facts_of,
    has_dropout,
    read_options,
    save_options,
)


def test_every_argument_of_a_trainer_is_judged():
    trainers = SelMixTrainer, Stage1Trainer, FixMatchTrainer, MeanTeacherTrainer, MixMatchTrainer
    names = {
        name
        for trainer in trainers
        for cls in trainer.__mro__[: trainer.__mro__.index(Trainer) + 1]
        if "__init__" in vars(cls)
        for name in inspect.signature(cls.__init__).parameters
    }
    assert names - {"self", "kwargs"} == KEPT_PARAMETERS | FREE_PARAMETERS
    assert not KEPT_PARAMETERS & FREE_PARAMETERS


def test_facts_of_a_run(tmp_path):
    facts = facts_of(tiny.trainer(tmp_path, "vit", learning_rate=None, class_prior=[1.0, 2.0, 1.0, 1.0]))
    assert facts["trainer"] == "SelMixTrainer" and facts["step"] == "8 x 1 x 1" and facts["samples_per_step"] == 8
    assert facts["learning_rate"] is None and facts["optim"] == "sgd" and facts["lr_scheduler_type"] == "constant"
    assert facts["class_prior"] == "4 values" and facts["class_prior.1"] == 2.0
    assert facts["model.class"] == "ViTForImageClassification" and facts["model.dtype"] == "torch.float32"
    assert facts["model.weights"] == facts["model.trained"] and facts["model.config.hidden_dropout_prob"] == 0.0
    assert not has_dropout(facts)
    assert not {"output_dir", "logging_steps", "feature_cache_dir", "per_device_train_batch_size"} & facts.keys()
    for change in ({"hidden_dropout_prob": 0.1}, {"attention_probs_dropout_prob": 0.1}):
        assert has_dropout(facts_of(tiny.trainer(tmp_path, tiny.model("vit", **change))))
    assert has_dropout(facts_of(tiny.trainer(tmp_path, tiny.model("test_vit", drop_path_rate=0.1))))


def test_what_was_worked_out_is_not_what_was_given(tmp_path):
    run = tiny.trainer(tmp_path, learning_rate=None, backbone_learning_rate=None, **tiny.BARE)
    before = facts_of(run)
    run.train()
    assert run.args.learning_rate > 0 and facts_of(run) == before


def test_they_are_written_and_read_back(tmp_path):
    assert read_options(tmp_path) == ({}, [])  # of an older version
    facts = {"learning_rate": 0.1, "class_prior": None, "trainer": "SelMixTrainer"}
    save_options(tmp_path, facts, ["The run went on."])
    assert read_options(tmp_path) == (facts, ["The run went on."])


BEFORE = {"learning_rate": 0.1, "lr_scheduler_type": "cosine", "max_steps": 8, "warmup_steps": 0, "eval_steps": 4}
BEFORE |= {"trainer": "A", "trainer.loss": "ldam", "model.class": "B", "model.dtype": "x", "model.config.drop": 0.1}
BEFORE |= {"step": "8 x 1 x 1", "device": "cuda"}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"new": 1}, None),
        ({"learning_rate": 0.2}, "refused"),
        ({"model.dtype": "y"}, "refused"),
        ({"model.config.drop": 0.2}, "refused"),
        ({"max_steps": 9}, "refused"),
        ({"trainer.loss": "other"}, "refused"),
        ({"trainer": "C"}, "never"),
        ({"model.class": "C"}, "never"),
        ({"eval_steps": 2}, "said"),
        ({"device": "cpu"}, "said"),
        ({"step": "4 x 2 x 1"}, "sizes"),
    ],
    ids=str,
)
def test_how_a_change_is_judged(change, kind):
    found = vars(changes_of(BEFORE, BEFORE | change))
    assert {name: phrases for name, phrases in found.items() if phrases} == (
        {kind: [f"{name}={value!r}, which was {BEFORE[name]!r}" for name, value in change.items()]} if kind else {}
    )


def test_what_is_compared_elsewhere_is_left_out():
    now = BEFORE | {"learning_rate": 0.2, "trainer.loss": "x"}
    assert len(changes_of(BEFORE, now).refused) == 2
    assert changes_of(BEFORE, now, frozenset({"learning_rate", "trainer.loss"})).refused == []


@pytest.mark.parametrize(
    ("options", "free"),
    [
        ({"lr_scheduler_type": "cosine"}, False),
        ({"lr_scheduler_type": "constant"}, True),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1}, False),
        ({"lr_scheduler_type": "constant", "trainer.loss": "ldam_drw"}, False),
    ],
    ids=str,
)
def test_a_run_may_be_made_longer_where_nothing_looks_at_its_end(options, free):
    before = BEFORE | options
    assert (not changes_of(before, before | {"max_steps": 16}).refused) == free


def test_a_trainer_of_positional_arguments(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    run = Stage1Trainer(tiny.model(), args, None, tiny.images(), None, tiny.processor(), mixup_alpha=0.5)
    facts = facts_of(run)
    assert facts["trainer.mixup_alpha"] == 0.5 and facts["trainer.loss"] == "logit_adjusted"
    assert facts["trainer.processing_class"].startswith("ViTImageProcessor") and facts["trainer.data_collator"] is None

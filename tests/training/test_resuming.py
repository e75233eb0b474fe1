"""A run resumes from what is there, or says what is."""

import os

import pytest
import tiny
import torch
from transformers import TrainingArguments

from selmix_hf.training import manifest
from selmix_hf.training.passes import Passes
from selmix_hf.training.resuming import require_checkpoint
from selmix_hf.training.stage1 import Stage1Trainer


def checkpoint(folder, step):
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / f"checkpoint-{step}" / name)
    return str(folder / f"checkpoint-{step}")


@pytest.mark.parametrize("asked", [None, False, ""])
def test_nothing_is_asked_for(asked, tmp_path):
    assert require_checkpoint(asked, str(tmp_path)) is None


def test_a_folder_or_the_latest_one(tmp_path):
    paths = [checkpoint(tmp_path, step) for step in (8, 120, 9)]
    assert require_checkpoint(True, str(tmp_path)) == paths[1]
    assert require_checkpoint(paths[0], str(tmp_path / "another")) == paths[0]


def test_a_folder_that_is_not_there(tmp_path):
    sentence = r"there is no folder '/nowhere/checkpoint-5' \(looked in .*\)\. .* holds "
    with pytest.raises(FileNotFoundError, match=sentence + r"no checkpoints\."):
        require_checkpoint("/nowhere/checkpoint-5", str(tmp_path))
    checkpoint(tmp_path, 8), checkpoint(tmp_path, 12)
    with pytest.raises(FileNotFoundError, match=sentence + r"checkpoint-8, checkpoint-12\."):
        require_checkpoint("/nowhere/checkpoint-5", str(tmp_path))


@pytest.mark.parametrize("name", ["", "missing"])
def test_no_checkpoint_in_output_dir(name, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="asks for the latest checkpoint, but .* holds no checkpoints. Leave it"
    ):
        require_checkpoint(True, str(tmp_path / name))


def test_a_saved_model_is_no_checkpoint(tmp_path):
    older = checkpoint(tmp_path, 8)
    saved = tmp_path / "checkpoint-12"
    saved.mkdir()
    sentence = "'.*checkpoint-12' has no trainer_state.json, .* holds checkpoint-8, ch"
    with pytest.raises(FileNotFoundError, match=sentence):
        require_checkpoint(str(saved), str(tmp_path))
    said = []
    assert require_checkpoint(True, str(tmp_path), said.append) == older
    sentence = f"checkpoint-12 of {tmp_path} was not written to its end: the run goes on from checkpoint-8."
    assert said == [sentence]


def test_a_run_whose_checkpoints_are_all_unfinished_begins_anew(tmp_path):
    for step in (4, 8):
        manifest.begin(checkpoint(tmp_path, step))
    said = []
    assert require_checkpoint(True, str(tmp_path), said.append) is None
    assert said == [f"checkpoint-4, checkpoint-8 of {tmp_path} were not written to their end: the run begins anew."]


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    paths = [checkpoint(tmp_path, step) for step in (4, 8)]
    for path in paths:
        manifest.finish(path)
    damaged = tmp_path / "checkpoint-8" / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"1")
    sentence = "'.*checkpoint-8' cannot be used: optimizer.pt is damaged: its sha256 is not that in manifest.json."
    with pytest.raises(ValueError, match=sentence):
        require_checkpoint(paths[1], str(tmp_path))
    said = []
    assert require_checkpoint(True, str(tmp_path), said.append) == paths[0]
    assert len(said) == 1 and said[0].endswith("manifest.json. The run goes on from checkpoint-4.")


def test_a_checkpoint_of_the_model_alone_is_not_resumed(tmp_path):
    run = tiny.trainer(tmp_path, save_strategy="epoch", save_only_model=True)
    run.train()
    with pytest.raises(FileNotFoundError, match=r"has no optimizer\.pt and no scheduler\.pt and no rng_"):
        tiny.trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_in_the_arguments_alone_is_not_passed_over(tmp_path):
    run = tiny.trainer(tmp_path, resume_from_checkpoint="somewhere")
    with pytest.raises(ValueError, match="'somewhere' in the arguments is for scripts, and train.. would begin anew"):
        run.train()


def test_a_used_folder_is_said(tmp_path, warnings):
    for step in (100, 200):
        os.utime(checkpoint(tmp_path, step), (step, step))
    options = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "no", "load_best_model_at_end": False}
    tiny.trainer(tmp_path, **options, save_total_limit=2).train()
    (said,) = warnings
    assert said.startswith(
        f"{tmp_path} holds checkpoint-100, checkpoint-200 of an earlier run. This one begins anew and writes its own "
        "among them, over those of the same step, and save_total_limit=2 deletes the oldest of all of "
        "them; resume_from_checkpoint=True would go on from checkpoint-200 of either."
    )
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    tiny.trainer(tmp_path, **tiny.BARE).train()
    assert "begins anew and leaves them there; resume_from_checkpoint=True would go on" in warnings[1]
    tiny.trainer(tmp_path / "new", **options).train()
    assert len(warnings) == 2


@pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])
def test_the_trainers_look_before_they_train(freeze, tmp_path, monkeypatch):
    run = tiny.trainer(tmp_path / "selmix", freeze_backbone=freeze)
    monkeypatch.setattr(Passes, "look", property(lambda _: pytest.fail("a look at data")))
    with pytest.raises(FileNotFoundError, match="there is no folder '/nowhere/checkpoint-5'"):
        run.train(resume_from_checkpoint="/nowhere/checkpoint-5")
    with pytest.raises(FileNotFoundError, match="asks for the latest checkpoint"):
        run.train(True)
    options = TrainingArguments(str(tmp_path / "stage1"), use_cpu=True, report_to="none")
    stage1 = Stage1Trainer(tiny.model(), options, train_dataset=tiny.images(), processing_class=tiny.processor())
    with pytest.raises(FileNotFoundError, match="asks for the latest checkpoint"):
        stage1.train(resume_from_checkpoint=True)


def test_the_latest_checkpoint_is_resumed(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 5, "load_best_model_at_end": False}
    whole = tiny.trainer(tmp_path, **options)
    whole.train()
    again = tiny.trainer(tmp_path, **{**options, "max_steps": 12})
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 12 and len(tiny.losses(again)) == 12
    assert tiny.losses(again)[:8] == tiny.losses(whole)

"""Pushes while a run goes on: what goes up, and that none that fails stops it."""

import os
import re
import threading
import time

import huggingface_hub
import pytest
import tiny
import torch
from fake_hub import interrupt
from pushed import MODEL, SAVING, WHOLE, pushing
from transformers import AutoModelForImageClassification, TrainerCallback


@pytest.mark.parametrize(
    ("strategy", "subfolders"),
    [
        ("every_save", ()),
        ("checkpoint", ("last-checkpoint",)),
        ("all_checkpoints", ("checkpoint-2", "checkpoint-4")),
        ("end", None),
    ],
)
def test_pushes_during_training_upload_models_and_nothing_else(hub, tmp_path, strategy, subfolders, warnings):
    trainer = pushing(tmp_path / "out", hub_strategy=strategy, hub_always_push=True)
    trainer.train()
    assert os.path.isfile(tmp_path / "out" / "checkpoint-4" / "optimizer.pt")
    expected = set() if subfolders is None else {*MODEL, *(f"{f}/{name}" for f in subfolders for name in MODEL)}
    assert set(hub.files("me/out")) == expected
    steps = [int(message.rpartition(" ")[2]) for message in hub.commits]
    assert steps == ([] if subfolders is None else [2, 4] if not subfolders else [2, 2, 4, 4])
    assert bool(subfolders) == any("a run can be resumed from output_dir only" in text for text in warnings)
    if expected:
        pulled = AutoModelForImageClassification.from_pretrained("me/out")
        assert torch.equal(tiny.logits(pulled), tiny.logits(trainer.model))
    trainer.save_model()
    assert set(hub.files("me/out")) == expected | WHOLE
    assert hub.commits[-1] == "Model save"
    assert not list((tmp_path / "out").glob("tmp_push_*"))


def test_the_start_is_pushed_as_the_first_best_checkpoint(hub, tmp_path):
    """With the defaults the start is saved at step 0, before Trainer has an epoch to name; later ones replace it."""
    options = {"save_strategy": "best", "eval_strategy": "epoch", "load_best_model_at_end": True, "max_steps": 8}
    pushing(tmp_path / "out", hub_always_push=True, save_total_limit=1, **options).train()
    assert hub.commits[0] == "Training in progress, step 0"
    assert set(hub.files("me/out")) == MODEL


@pytest.mark.parametrize(
    ("failures", "sentence"),
    [
        ([500] * 4, "the Hub answered 500; try again later"),
        (["drop"] * 4, r"there is no connection to the Hub, or it broke off \(\w+\)"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("no token", "no valid token; run `hf auth login`"),
        ("no space", "OSError: no space left on device"),
    ],
)
def test_a_failed_push_does_not_stop_the_run(hub, tmp_path, failures, sentence, warnings, monkeypatch):
    quiet = tiny.trainer(tmp_path / "quiet", "vit", **{**SAVING, "max_steps": 4})
    quiet.train()
    trainer = pushing(tmp_path / "out", hub_always_push=True)
    with monkeypatch.context() as patch:
        if failures == "offline":
            patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        elif failures == "no token":
            patch.delenv("HF_TOKEN")
        elif failures == "no space":

            def full(*args, **kwargs):
                raise OSError("no space left on device")

            patch.setattr("selmix_hf.hub.background.tempfile.mkdtemp", full)
        else:
            hub.failures[:] = failures
        trainer.train()
    assert trainer.state.global_step == 4
    assert tiny.largest_difference(tiny.weights(trainer), tiny.weights(quiet)) == 0
    (told,) = [text for text in warnings if "push" in text]
    assert re.search(f"a push during training failed: {sentence}.*The run goes on.*trainer.push_to_hub\\(\\)", told)
    assert hub.commits == []
    hub.failures.clear()
    trainer.push_to_hub()
    assert set(hub.files("me/out")) == WHOLE
    assert torch.equal(
        tiny.logits(AutoModelForImageClassification.from_pretrained("me/out")), tiny.logits(trainer.model)
    )


def test_ctrl_c_while_a_finished_run_waits_for_its_last_push(hub, tmp_path, warnings):
    trainer = pushing(tmp_path / "out", save_steps=4)
    waiting, finish = threading.Event(), trainer._finish_current_push
    trainer._finish_current_push = lambda: (waiting.set(), finish())

    def interrupt_the_wait():
        waiting.wait(60)
        time.sleep(0.3)
        return interrupt()

    hub.failures.append(interrupt_the_wait)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 4 and not trainer.is_in_train
    assert any("the wait for the push of a checkpoint was interrupted. Nothing is lost" in text for text in warnings)
    trainer.push_to_hub()
    assert set(hub.files("me/out")) == WHOLE


def test_ctrl_c_during_training(hub, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    hub.failures.append(lambda: time.sleep(1))  # the push of step 2 is still under way
    trainer = pushing(tmp_path / "out", callbacks=[Stop()], freeze_backbone=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.push_to_hub()
    assert hub.commits == ["Training in progress, step 2", "End of training"]
    assert set(hub.files("me/out")) == WHOLE
    assert torch.equal(
        tiny.logits(AutoModelForImageClassification.from_pretrained("me/out")), tiny.logits(trainer.model)
    )

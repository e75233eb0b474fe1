"""What a checkpoint is closed by, and the best one that was moved or is gone."""

import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from selmix_hf.training import manifest

EVERY_TWO = {"objective": "mean_recall", "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}


def run_in(folder, **options):
    return tiny.trainer(folder, **{**EVERY_TWO, "eval_steps": 2, "learning_rate": 0.02, **options})


def test_a_checkpoint_is_closed_before_older_ones_are_deleted(tmp_path, monkeypatch):
    seen = []

    def finish(folder):
        seen.append([Path(folder).name, len(list(tmp_path.glob("checkpoint-*")))])
        assert manifest.is_unfinished(folder)
        plain(folder)

    plain = manifest.finish
    monkeypatch.setattr(manifest, "finish", finish)
    run_in(tmp_path, save_total_limit=1, load_best_model_at_end=False, max_steps=6, eval_strategy="no").train()
    assert seen == [["checkpoint-2", 1], ["checkpoint-4", 2], ["checkpoint-6", 2]]
    (left,) = tmp_path.glob("checkpoint-*")
    assert left.name == "checkpoint-6" and manifest.fault_of(left) is None


def test_the_token_is_not_written(tmp_path):
    run = run_in(tmp_path, hub_token="a-token", max_steps=2)
    run.train()
    folder = tmp_path / "checkpoint-2"
    kept = torch.load(folder / "training_args.bin", weights_only=False)
    assert kept.hub_token is None and kept.max_steps == 2
    run.save_model(tmp_path / "model")
    assert not torch.load(tmp_path / "model" / "training_args.bin", weights_only=False).hub_token
    assert run.args.hub_token == "a-token"
    assert not any(b"a-token" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_resumed_run_unpickles_nothing_but_weights(tmp_path, monkeypatch):
    run_in(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / "manifest.json").unlink()
    (tmp_path / "checkpoint-2" / "options.json").unlink()
    (tmp_path / "checkpoint-2" / "training_args.bin").write_bytes(b"no pickle: it is never read")
    load, read = torch.load, []

    def safely(file, *args, weights_only, **kwargs):
        read.append(Path(file).name)
        assert weights_only
        return load(file, *args, weights_only=weights_only, **kwargs)

    monkeypatch.setattr(torch, "load", safely)
    run_in(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    assert sorted(read) == ["optimizer.pt", "rng_state.pth", "scheduler.pt"]


@pytest.mark.parametrize("best", [0, 4])
def test_a_moved_run_keeps_its_best_checkpoint(best, tmp_path, warnings):
    rate = 0.02 if best else 1e-9
    whole = run_in(tmp_path / "whole", learning_rate=rate, max_steps=8)
    whole.train()
    run_in(tmp_path / "before", learning_rate=rate, max_steps=8, callbacks=[Stop(at=4)]).train()
    shutil.move(tmp_path / "before", tmp_path / "after")
    resumed = run_in(tmp_path / "after", learning_rate=rate, max_steps=8)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_global_step == whole.state.best_global_step
    if best == 0:
        assert resumed.state.best_global_step == 0
    assert Path(resumed.state.best_model_checkpoint).parent == tmp_path / "after"
    now = Path(resumed.state.best_model_checkpoint)
    if best == 0:
        assert f"the best checkpoint {tmp_path / 'before' / now.name} is in {now} now." in warnings
    assert resumed.state.best_metric == whole.state.best_metric
    assert tiny.largest_difference(resumed.model.state_dict(), whole.model.state_dict()) == 0


class Stop(TrainerCallback):
    """Ends a run after a step."""

    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_save = state.global_step == self.at


class DeleteBest(TrainerCallback):
    """Deletes the best checkpoint once that of a step is saved."""

    def __init__(self, at):
        self.at = at

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            shutil.rmtree(state.best_model_checkpoint)


def test_a_best_checkpoint_that_is_deleted_is_said_and_chosen_anew(tmp_path, warnings):
    run = run_in(tmp_path, learning_rate=1e-9, max_steps=8, callbacks=[DeleteBest(at=2)])
    run.train()
    gone = tmp_path / "checkpoint-0"
    assert f"the best checkpoint {gone} is gone: the best of the evaluations from now on is kept." in warnings
    assert run.state.best_global_step in (6, 8) and os.path.isdir(run.state.best_model_checkpoint)


def test_a_best_checkpoint_that_is_deleted_at_last_leaves_the_last_weights(tmp_path, warnings):
    run = run_in(tmp_path, max_steps=8, learning_rate=1e-9, callbacks=[DeleteBest(at=8)])
    run.train()
    assert f"the best checkpoint {tmp_path / 'checkpoint-0'} is gone: the weights of the last step stay." in warnings
    assert run.state.best_global_step is None and run.step_of_weights() == 8
    last = load_file(tmp_path / "checkpoint-8" / "model.safetensors")
    assert tiny.largest_difference(run.model.state_dict(), last) == 0

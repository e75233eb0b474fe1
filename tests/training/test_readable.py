"""Cut files of a checkpoint without a manifest end in a sentence with their name."""

import random
import shutil

import pytest
import tiny

from selmix_hf.training.readable import unreadable
from selmix_hf.training.same_data import require_same_data
from selmix_hf.training.state import PairState

OPTIONS = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny.trainer(folder, max_steps=4, **OPTIONS).train()
    (folder / "checkpoint-4" / "manifest.json").unlink()
    (folder / "checkpoint-4" / "options.json").unlink()
    return folder / "checkpoint-4"


def cuts(path, times=6):
    whole = path.read_bytes()
    for size in (0, *random.Random(0).sample(range(1, len(whole)), times), len(whole) - 2):
        path.write_bytes(whole[:size])
        yield
    path.write_bytes(whole)


READ = ["model.safetensors", "config.json", "selmix_state.safetensors", "classes.json", "trainer_state.json"]
READ += ["optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.mark.parametrize("name", READ)
def test_a_run_is_not_resumed_from_a_file_that_is_cut(name, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "checkpoint-4")
    run = tiny.trainer(tmp_path, **OPTIONS)
    for _ in cuts(tmp_path / "checkpoint-4" / name):
        with pytest.raises(ValueError, match=f"checkpoint-4' cannot be used: {name} is damaged"):
            run.train(resume_from_checkpoint=True)
    assert unreadable(tmp_path / "checkpoint-4", lambda _: True) is None


def test_the_readers_name_their_file_too(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-4")
    for _ in cuts(folder / "selmix_state.safetensors"):
        with pytest.raises(ValueError, match="selmix_state.safetensors is damaged: it is no safetensors file"):
            PairState.load(folder)
    for _ in cuts(folder / "classes.json"):
        with pytest.raises(ValueError, match="classes.json is damaged: it is no JSON"):
            require_same_data(folder, {})
    shutil.copy(folder / "model.safetensors", folder / "selmix_state.safetensors")
    with pytest.raises(ValueError, match="has no geometry and no period: SelMixTrainer did not write it"):
        PairState.load(folder)


def test_files_that_are_not_needed_are_not_looked_at(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-4")
    (folder / "scheduler.pt").write_bytes(b"")
    assert unreadable(folder, lambda name: name == "config.json") is None
    assert "scheduler.pt is damaged" in unreadable(folder, lambda name: True)

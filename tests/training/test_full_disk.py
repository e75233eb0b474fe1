"""A disk that is full in the middle of a checkpoint: one sentence, and a run that goes on from the last whole one."""

import errno
import os
import shutil
import subprocess

import pytest
import safetensors.torch
import tiny
import torch
from safetensors import SafetensorError

from selmix_hf.training import manifest

EVERY_TWO = {
    "objective": "mean_recall",
    "save_strategy": "steps",
    "save_steps": 2,
    "max_steps": 6,
    "save_total_limit": 5,
}
EVERY_TWO |= {"eval_strategy": "no", "load_best_model_at_end": False}


def run_in(folder):
    return tiny.trainer(folder, **EVERY_TWO)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = run_in(tmp_path_factory.mktemp("unbroken"))
    run.train()
    return tiny.weights(run)


def of_python(name):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def of_safetensors(name):
    return SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def of_torch(name):
    return RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


WRITERS = {
    "begin": (manifest, "begin", of_python),
    "weights": (safetensors.torch, "save_file", of_safetensors),
    "optimizer": (torch, "save", of_torch),
    "end": (manifest, "finish", of_python),
}


@pytest.mark.parametrize("where", WRITERS)
@pytest.mark.parametrize("at", [2, 4])
def test_the_sentence_and_the_run_that_goes_on(where, at, unbroken, tmp_path, monkeypatch):
    place, name, error = WRITERS[where]
    write, broken = getattr(place, name), run_in(tmp_path)

    def no_room(*args, **kwargs):
        if broken.state.global_step == at:
            raise error(name)
        return write(*args, **kwargs)

    with monkeypatch.context() as full:
        for module in (place, *([__import__("transformers").modeling_utils] if where == "weights" else [])):
            full.setattr(module, "safe_save_file" if module.__name__.startswith("transformers") else name, no_room)
        with pytest.raises(
            OSError, match=rf"checkpoint-{at} could not be written to its end \(.*\): .* bytes are f"
        ) as e:
            broken.train()
    assert e.value.errno == errno.ENOSPC
    last = "There is no whole checkpoint before it: make room and begin anew." if at == 2 else "checkpoint-2 has "
    assert last in str(e.value) and ("resume_from_checkpoint=True) goes on from it." in str(e.value)) == (at == 4)
    resumed = run_in(tmp_path)
    resumed.train(resume_from_checkpoint=any(tmp_path.glob("checkpoint-*")))
    assert tiny.largest_difference(tiny.weights(resumed), unbroken) == 0


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(manifest, "begin", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        run_in(tmp_path).train()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_a_disk_that_is_full_after_a_share_of_a_checkpoint(share, unbroken, small_disk, tmp_path):
    run_in(tmp_path / "sizes").train()
    files = (tmp_path / "sizes" / "checkpoint-2").iterdir()
    pages = sum(-(-path.stat().st_size // 4096) for path in files)
    ballast, out = small_disk / "ballast", small_disk / "out"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096 * (pages + 4 + int(share * pages))))
    with pytest.raises(OSError, match=r"checkpoint-\d could not be written to its end \(.*\): .* bytes are free") as e:
        run_in(out).train()
    assert "checkpoint-2 has " in str(e.value)
    ballast.unlink()
    resumed = run_in(out)
    resumed.train(resume_from_checkpoint=True)
    assert tiny.largest_difference(tiny.weights(resumed), unbroken) == 0
    assert manifest.fault_of(out / "checkpoint-6") is None

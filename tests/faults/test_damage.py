"""Checkpoints with files that are missing, cut or changed are refused by the file's name, not read as another."""

import shutil
from pathlib import Path

import killed
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from selmix_hf.training.checkpoints import load_weights
from selmix_hf.training.resuming import OF_MODEL, require_checkpoint

KINDS = (*killed.KINDS, "lora")
OPTIONS = {"max_steps": 4, "save_total_limit": None}
OF_STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def make(kind, folder, **options):
    if kind == "lora":
        saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        return tiny.trainer(folder, tiny.lora(), objective="mean_recall", **{**saving, **OPTIONS, **options})
    return killed.make(kind, folder, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("peft")
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        make(kind, folder).train()
    return folders


@pytest.fixture
def run(made, tmp_path):
    """A copy of a run's folder."""
    return lambda kind: Path(shutil.copytree(made[kind], tmp_path / kind))


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [delete, cut, flip], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_as_it_was_written(kind, damage, run, warnings):
    folder = run(kind)
    latest = folder / "checkpoint-4"
    trainer = make(kind, folder)
    trainer.state.best_model_checkpoint = str(latest)
    files = sorted(path for path in latest.rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"manifest.json", "options.json", "classes.json", "training_args.bin", *OF_STATE} <= names
    for path in files:
        whole = path.read_bytes()
        damage(path)
        of_another = path.name == "manifest.json" and damage is flip  # whose checksum is changed
        named = f"{'' if of_another else path.name} is (missing|damaged)"
        for inexact in (False, True):
            if inexact and damage is delete and path.name in OF_STATE:
                continue
            with pytest.raises((ValueError, FileNotFoundError), match=named):
                require_checkpoint(str(latest), None, inexact=inexact)
        warnings.clear()
        assert require_checkpoint(True, str(folder), warnings.append) == str(folder / "checkpoint-2")
        assert len(warnings) == 1 and "checkpoint-4" in warnings[0] and "goes on from checkpoint-2" in warnings[0]
        if any(path.match(pattern) for pattern in (*OF_MODEL, "manifest.json")) and not of_another:
            with pytest.raises(ValueError, match=named):
                trainer._load_best_model()
        path.write_bytes(whole)
    assert require_checkpoint(True, str(folder)) == str(latest)


def of_older_version(folder):
    for name in ("manifest.json", "options.json", "classes.json"):
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize("name", OF_STATE)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_manifest_a_missing_state_is_found_too(kind, name, run):
    folder = of_older_version(run(kind) / "checkpoint-4")
    assert require_checkpoint(str(folder), None) == str(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}, which .* inexact=True. does so"):
        require_checkpoint(str(folder), None)


@pytest.mark.parametrize("tensor", ["classifier", "layers.0"], ids=["head", "backbone"])
@pytest.mark.parametrize("kind", ["selmix", "frozen", "stage1", "lora"])
def test_without_a_manifest_a_missing_tensor_is_found_too(kind, tensor, run):
    folder = of_older_version(run(kind) / "checkpoint-4")
    path = folder / ("adapter_model.safetensors" if kind == "lora" else "model.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if tensor in name or tensor.replace("layers", "layer") in name)
    save_file({key: value for key, value in tensors.items() if key != name}, path, {"format": "pt"})
    trainer = make(kind, folder.parent)
    own = tiny.weights(trainer)
    trainer.state.best_model_checkpoint = str(folder)
    for load in (lambda: trainer.train(resume_from_checkpoint=str(folder), inexact=True), trainer._load_best_model):
        with pytest.raises(ValueError, match=r"lack 1 tensors, the first|has other tensors than that of the model"):
            load()
    assert tiny.largest_difference(own, tiny.weights(trainer)) == 0


def test_the_weights_of_any_module_are_read_strictly(tmp_path):
    """Also of one that is not of transformers, whose tensors Trainer passes over where they are missing."""
    model, path = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), tmp_path / "model.safetensors"
    assert not load_weights(model, tmp_path)  # another format: Trainer's affair
    state = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    save_file(state, path)
    assert load_weights(model, tmp_path) and all(bool((value == 1).all()) for value in model.parameters())
    save_file({name: value for name, value in state.items() if name != "1.bias"}, path)
    with pytest.raises(ValueError, match=r"lack 1 tensors, the first '1\.bias'"):
        load_weights(model, tmp_path)
    save_file({**state, "2.bias": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"have 1 tensors that the model has not, the first '2\.bias'"):
        load_weights(model, tmp_path)
    cut(path)
    with pytest.raises(ValueError, match="cannot be read, a file of them is damaged"):
        load_weights(model, tmp_path)


def test_a_deeper_model_is_not_read_into_a_shallow_one(tmp_path):
    tiny.model("vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tensors that the model has not"):
        load_weights(tiny.model("vit", num_hidden_layers=1), tmp_path)


# --- going on without -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [OF_STATE, *[(name,) for name in OF_STATE]], ids="+".join)
def test_a_run_goes_on_inexactly_where_it_is_asked_to(lost, run, warnings):
    folder = run("selmix")
    for name in lost:
        (folder / "checkpoint-2" / name).unlink()
    trainer = make("selmix", folder)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"), inexact=True)
    (said,) = [text for text in warnings if "inexactly" in text]
    assert said == (
        "The run went on from checkpoint-2 inexactly and ends at other weights than the unbroken run would: "
        f"{'; '.join(f'{name} is missing' for name in sorted(lost))}."
    )
    assert trainer.state.global_step == 4
    again = make("selmix", folder, max_steps=6)
    again.train(resume_from_checkpoint=True)  # exactly, and the checkpoint remembers
    assert again.resumed_inexactly == (said,) and len([text for text in warnings if "inexactly" in text]) == 1
    again.create_model_card()
    assert said in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_the_model_alone(kind, tmp_path, warnings):
    schedule = {"lr_scheduler_type": "cosine", "save_only_model": True}
    whole = make(kind, tmp_path, **schedule)
    whole.train()
    trainer = make(kind, tmp_path, **schedule)
    with pytest.raises(
        FileNotFoundError, match="no optimizer.pt and no scheduler.pt and no rng_state.pth, which save_"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"), inexact=True)
    assert trainer.state.global_step == 4 and any("optimizer.pt is missing" in text for text in warnings)
    assert trainer.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()


def test_nothing_is_inexact_about_a_whole_checkpoint(run, warnings):
    folder = run("selmix")
    shutil.rmtree(folder / "checkpoint-4")
    trainer = make("selmix", folder)
    trainer.train(resume_from_checkpoint=True, inexact=True)
    assert not trainer.resumed_inexactly and not [text for text in warnings if "inexact" in text]
    unbroken = make("selmix", folder / "unbroken")
    unbroken.train()
    assert tiny.largest_difference(tiny.weights(unbroken), tiny.weights(trainer)) == 0

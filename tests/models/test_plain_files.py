"""Checkpoints are data: nothing that one brings is run, and pickled weights are read where they are asked for."""

import ast
import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from selmix_hf.models.loading import knows_classes, load_classifier, load_for_classes
from selmix_hf.models.plain_files import NotPlainError, require_plain
from selmix_hf.training.checkpoints import load_weights

ROOT = Path(__file__).parents[2]
PICKLED = "pytorch_model.bin"


@pytest.fixture
def checkpoint(tmp_path):
    tiny.model("vit", id2label=dict(enumerate(tiny.NAMES))).save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    return tmp_path


def configured(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder, name=PICKLED):
    (folder / "model.safetensors").unlink()
    torch.save(tiny.model("vit").state_dict(), folder / name)


@pytest.fixture
def unattended(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))


@pytest.mark.parametrize("load", [load_classifier, load_for_classes])
@pytest.mark.parametrize("model_type", ["vit", "of_its_own"])
def test_code_in_a_folder_is_refused_and_not_run(load, model_type, checkpoint, unattended):
    (checkpoint / "own.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')")
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.Own"}
    configured(checkpoint, auto_map=auto_map, model_type=model_type)
    with pytest.raises(NotPlainError, match="asks for code that comes with the checkpoint .*own.Own.* never run here"):
        load(str(checkpoint), tiny.NAMES)
    assert not (checkpoint / "ran").exists()


def test_no_code_of_a_config_or_a_processor_is_run(checkpoint, unattended):
    (checkpoint / "own.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')")
    path = checkpoint / "preprocessor_config.json"
    own = {"image_processor_type": "OwnProcessor", "auto_map": {"AutoImageProcessor": "own.OwnProcessor"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    with pytest.raises(FileNotFoundError, match="no image classifier .* contains custom code"):
        load_classifier(str(checkpoint), tiny.NAMES)
    configured(checkpoint, auto_map={"AutoConfig": "own.OwnConfig"}, model_type="of_its_own")
    with pytest.raises(FileNotFoundError, match="no image classifier .* contains custom code"):
        knows_classes(str(checkpoint), tiny.NAMES)
    assert not (checkpoint / "ran").exists()


def test_the_auto_classes_are_never_left_to_ask():
    """They ask on the terminal where trust_remote_code is not given."""
    wanting = []
    for path in [p for wing in ("selmix_hf", "recipes", "benchmarks") for p in (ROOT / wing).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if "Auto" in called and called.endswith((".from_pretrained", ".from_config")):
                given = [ast.unparse(word) for word in node.keywords]
                if not any(word == "trust_remote_code=False" or word.startswith("**") for word in given):
                    wanting.append(f"{path.relative_to(ROOT)}, line {node.lineno}")
    assert wanting == []


@pytest.mark.parametrize("load", [load_classifier, load_for_classes])
def test_pickled_weights_are_read_where_they_are_asked_for(load, checkpoint):
    pickled(checkpoint)
    with pytest.raises(
        NotPlainError, match="holds its weights as pytorch_model.bin, which is a pickle: expected model"
    ):
        load(str(checkpoint), tiny.NAMES)
    model, _ = load(str(checkpoint), tiny.NAMES, weights_file=PICKLED)
    assert tiny.largest_difference(tiny.weights(model), tiny.weights(tiny.model("vit"))) == 0


def test_the_same_on_the_hub(hub, checkpoint, unattended):
    configured(checkpoint, auto_map={"AutoModelForImageClassification": "own.Own"})
    hub.put("me/own", checkpoint)
    with pytest.raises(NotPlainError, match="'me/own' asks for code that comes with the checkpoint"):
        load_classifier("me/own", tiny.NAMES)
    tiny.model("vit").config.save_pretrained(checkpoint)
    pickled(checkpoint)
    hub.put("me/pickled", checkpoint)
    with pytest.raises(NotPlainError, match="'me/pickled' holds its weights as pytorch_model.bin"):
        load_classifier("me/pickled", tiny.NAMES)
    load_classifier("me/pickled", tiny.NAMES, weights_file=PICKLED)


def test_pickles_beside_safetensors_are_left_alone(checkpoint):
    (checkpoint / PICKLED).write_bytes(b"no pickle")
    load_classifier(str(checkpoint), tiny.NAMES)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "../pytorch_model.bin", "other.bin"])
def test_what_is_asked_for_must_be_there(name, checkpoint):
    torch.save({}, checkpoint.parent / PICKLED)
    with pytest.raises(NotPlainError, match="weights_file must be pytorch_model.bin or .* and in '.*', found"):
        load_classifier(str(checkpoint), tiny.NAMES, weights_file=name)


def test_pickled_adapters_and_other_names_of_weights(checkpoint):
    (checkpoint / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(
        NotPlainError, match="as adapter_model.bin, which is a pickle: expected adapter_model.safetens"
    ):
        require_plain(checkpoint)
    configured(checkpoint, transformers_weights="adapter_model.bin")
    with pytest.raises(
        NotPlainError, match="names 'adapter_model.bin' as its weights: expected a file of safetensors"
    ):
        require_plain(checkpoint)


@pytest.mark.parametrize("kind", ["of transformers", "another", "adapter"])
def test_a_checkpoint_is_not_resumed_from_pickled_weights(kind, checkpoint):
    pickled(checkpoint, "adapter_model.bin" if kind == "adapter" else PICKLED)
    model = {"of transformers": tiny.model, "another": lambda _: torch.nn.Linear(2, 2), "adapter": tiny.lora}[kind]
    with pytest.raises(NotPlainError, match="which is a pickle"):
        load_weights(model("vit"), checkpoint)


def test_what_transformers_does_with_a_plain_one_is_unchanged(checkpoint):
    model, processor = load_classifier(str(checkpoint), tiny.NAMES)
    plain = AutoModelForImageClassification.from_pretrained(checkpoint)
    assert tiny.largest_difference(tiny.weights(model), tiny.weights(plain)) == 0
    assert processor.to_dict() == AutoImageProcessor.from_pretrained(checkpoint).to_dict()

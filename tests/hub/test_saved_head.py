"""Heads without their backbone: pushed, pulled, and put back onto the same backbone only."""

import json
import re

import huggingface_hub
import pytest
import tiny
import torch
from fake_hub import interrupt
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from selmix_hf import SelMixHead
from selmix_hf.hub import saved_head
from selmix_hf.hub.upload import PushError

HEAD = {"config.json", "selmix_head.safetensors", "README.md"}


def test_the_pulled_head_gives_bitwise_equal_logits(hub, trained):
    url = trained.push_head_to_hub("me/head", private=True)
    assert url.startswith(f"{hub.url}/me/head/commit/")
    assert hub.repos["me/head"]["visibility"] == "private"
    assert set(hub.files("me/head")) == HEAD
    pulled = SelMixHead.from_pretrained("me/head")
    expected = tiny.logits(trained.model)
    assert torch.equal(tiny.logits(pulled.load_base()), expected)
    again = AutoModelForImageClassification.from_pretrained("me/base")
    assert not torch.equal(tiny.logits(again), expected)
    assert torch.equal(tiny.logits(pulled.attach(again)), expected)
    assert again.config.id2label == dict(enumerate(tiny.NAMES))
    here = SelMixHead.from_pretrained(trained.args.output_dir + "/head")
    assert torch.equal(tiny.logits(here.load_base()), expected)


def test_a_revision(hub, trained):
    trained.push_head_to_hub("me/head", revision="v2")
    assert hub.files("me/head") == {} and set(hub.files("me/head", "v2")) == HEAD
    SelMixHead.from_pretrained("me/head", revision="v2")
    with pytest.raises(FileNotFoundError, match="no head could be read from 'me/head'"):
        SelMixHead.from_pretrained("me/head")


def test_a_failed_push_loses_nothing_and_is_repeated(hub, trained, monkeypatch):
    with monkeypatch.context() as without:
        without.delenv("HF_TOKEN")
        with pytest.raises(PushError, match="no valid token; run `hf auth login`.*Nothing is lost") as failure:
            trained.push_head_to_hub("me/head", private=True, license="mit")
    with pytest.raises(PushError, match="the token may not write there"):
        trained.push_head_to_hub("strangers/head")
    hub.failures.append(500)
    with pytest.raises(PushError, match="the Hub answered 500; try again later"):
        trained.push_head_to_hub("me/other")
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
            trained.push_head_to_hub("me/head")
    with monkeypatch.context() as nobody:
        nobody.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(PushError, match="ConnectError"):
            trained.push_head_to_hub("me/head")
    assert hub.commits == []
    eval(re.search(r"To repeat the push: (.*)", str(failure.value))[1], {"SelMixHead": SelMixHead})
    assert set(hub.files("me/head")) == HEAD and hub.repos["me/head"]["visibility"] == "private"
    assert "license: mit" in hub.files("me/head")["README.md"].decode()
    trained.push_head_to_hub("me/head")  # again: no error


@pytest.mark.parametrize("failure", ["drop", interrupt])
def test_an_interrupted_push_is_repeated(hub, trained, warnings, failure):
    hub.failures.append(failure)
    with pytest.raises((PushError, KeyboardInterrupt)) as stop:
        trained.push_head_to_hub("me/head")
    said = str(stop.value) if stop.type is PushError else warnings[-1]
    assert "it broke off" in said if failure == "drop" else "was interrupted. Nothing is lost" in said
    eval(re.search(r"To repeat the push: (.*)", said)[1], {"SelMixHead": SelMixHead})
    assert torch.equal(tiny.logits(SelMixHead.from_pretrained("me/head").load_base()), tiny.logits(trained.model))


def test_a_base_model_in_a_folder_stays_on_this_machine(hub, trained, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    trainer = tiny.trainer(tmp_path / "local", model, freeze_backbone=True, max_steps=2, **tiny.BARE)
    trainer.train()
    with pytest.raises(ValueError, match=r"is '.*/base', a path of this machine.*Give base_model, the Hub id"):
        trainer.push_head_to_hub("me/head")
    assert "me/head" not in hub.repos
    with pytest.raises(ValueError, match="'me/nothing' .* is not on the Hub"):
        trainer.push_head_to_hub("me/head", base_model="me/nothing")
    with pytest.raises(ValueError, match="'me/base' .revision v9. is not on the Hub"):
        trainer.push_head_to_hub("me/head", base_model="me/base", base_revision="v9")
    assert "me/head" not in hub.repos

    head = SelMixHead.from_model(trainer.model, trainer.head, trainer.class_names)
    head.save_pretrained(tmp_path / "saved")  # here the path is of use
    saved = SelMixHead.from_pretrained(tmp_path / "saved")
    assert saved.base_model == str(tmp_path / "base")
    assert torch.equal(tiny.logits(saved.load_base()), tiny.logits(trainer.model))

    trainer.push_head_to_hub("me/head", base_model="me/base")
    assert str(tmp_path) not in "".join(file.decode("latin1") for file in hub.files("me/head").values())
    pulled = SelMixHead.from_pretrained("me/head")
    assert re.fullmatch("[0-9a-f]{40}", pulled.base_revision)
    assert torch.equal(tiny.logits(pulled.load_base()), tiny.logits(trainer.model))


def test_attach_says_what_differs(trained):
    head = SelMixHead.from_model(trained.model, trained.head, trained.class_names)
    five = AutoModelForImageClassification.from_pretrained("me/base", num_labels=5, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match=r"the head, \(5, 16\) in the model: load the model with num_labels=4"):
        head.attach(five)
    with pytest.raises(ValueError, match="a parameter 'classifier.weight'.* has none"):
        head.attach(torch.nn.Linear(2, 2))
    other = AutoModelForImageClassification.from_pretrained("me/base")
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    before = other.classifier.weight.clone()
    with pytest.raises(ValueError, match="backbone is not the one .* expected fingerprint [0-9a-f]{12} .* found"):
        head.attach(other)
    assert torch.equal(other.classifier.weight, before)


def saved(folder, **changes):
    """A head of three classes and two features, some facts of its config.json changed, and its checksum renewed."""
    facts = {"architecture": "ViTForImageClassification", "base_model": "me/base", "base_revision": None}
    facts |= {"class_names": ["a", "b", "c"], "fingerprint": "f" * 64}
    SelMixHead({"head.weight": torch.zeros(3, 2), "head.bias": torch.zeros(3)}, **facts).save_pretrained(folder)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    config = {name: value for name, value in config.items() if value != "absent"}
    if "sha256" in config and "sha256" not in changes:
        config["sha256"] = saved_head._checksum(config, folder / "selmix_head.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_head_without_a_checksum_is_older(tmp_path):
    head = SelMixHead.from_pretrained(saved(tmp_path, selmix_head=1, sha256="absent"))
    assert head.class_names == ["a", "b", "c"] and head.tensors["head.weight"].shape == (3, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selmix_head": 3}, "must have selmix_head 1 or 2, the format, found 3"),
        ({"selmix_head": "absent"}, "the format, found None"),
        ({"fingerprint": "absent"}, "config.json lacks fingerprint and has nothing that a head does not have"),
        ({"num_labels": 10**9}, "config.json lacks nothing and has num_labels that a head does not have"),
        ({"sha256": "0" * 64}, "are not as they were saved: their sha256 is another"),
        ({"architecture": ["a"]}, r"architecture of a head must be a string, found \['a'\]"),
        ({"base_revision": 5}, "base_revision of a head must be a string, found 5"),
        ({"class_names": ["a", "b", 3]}, "class_names of a head must be a list of strings"),
        ({"class_names": {"a": 1}}, "class_names of a head must be a list of strings"),
        ({"class_names": ["a", "b", "a"]}, "class_names of a head must be distinct, found 'a' twice"),
        ({"class_names": ["a", "b"]}, r"head.bias of a head has shape \(3,\), which is not of 2 classes"),
    ],
)
def test_a_config_that_cannot_be_of_a_head(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=f"the head in '.*' cannot be used: .*{sentence}.*Save or download it again"):
        SelMixHead.from_pretrained(saved(tmp_path, **changes))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"head.weight": torch.full((3, 2), float("nan"))}, "found some that are infinite or not a number"),
        ({"head.weight": torch.zeros(3, 2, dtype=torch.int8)}, "finite floating-point numbers, found torch.int8"),
        ({}, "a head must have weights, found none"),
    ],
)
def test_weights_that_cannot_be_of_a_head(tensors, sentence, tmp_path):
    saved(tmp_path, selmix_head=1, sha256="absent")
    save_file(tensors, tmp_path / "selmix_head.safetensors")
    with pytest.raises(ValueError, match=sentence):
        SelMixHead.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "selmix_head.safetensors"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_head_that_is_cut_anywhere(name, version, tmp_path):
    saved(tmp_path, **({"selmix_head": 1, "sha256": "absent"} if version == 1 else {}))
    whole = (tmp_path / name).read_bytes()
    for size in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"the head in '.*' cannot be used: .*{name}"):
            SelMixHead.from_pretrained(tmp_path)


def test_a_flipped_bit_is_found(tmp_path):
    saved(tmp_path)
    for path in (tmp_path / "selmix_head.safetensors", tmp_path / "config.json"):
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(ValueError, match="the head in '.*' cannot be used"):
                SelMixHead.from_pretrained(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("architecture", ["pipeline", "AutoModel", "os", "Nothing"])
def test_an_architecture_must_be_a_model(architecture, tmp_path):
    head = SelMixHead.from_pretrained(saved(tmp_path, architecture=architecture))
    with pytest.raises(ValueError, match=f"the head's architecture '{architecture}' is no model of transformers"):
        head.load_base()


def test_a_base_with_code_or_pickled_weights_is_refused(tmp_path):
    head = SelMixHead.from_pretrained(saved(tmp_path / "head", base_model=str(tmp_path / "base")))
    model = tiny.model("vit")
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds its weights as pytorch_model.bin, which is a pickle"):
        head.load_base()
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Own"}}))
    with pytest.raises(ValueError, match="asks for code that comes with the checkpoint .* which is never run here"):
        head.load_base()


def test_what_cannot_be_a_head(hub, tmp_path):
    bare = tiny.trainer(tmp_path / "out", tiny.model("vit"), freeze_backbone=True, max_steps=1)
    with pytest.raises(ValueError, match="was not loaded by from_pretrained"):
        bare.push_head_to_hub("me/head")
    with pytest.raises(FileNotFoundError, match="nor on the Hub"):
        SelMixHead.from_pretrained("me/nothing")

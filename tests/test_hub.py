"""Heads and models on a fake Hub: what goes up, what comes down, what a failed push says."""

import re

import huggingface_hub
import pytest
import tiny
import torch
from fake_hub import TOKEN, FakeHub
from transformers import AutoModelForImageClassification

from selmix_hf import SelMixHead
from selmix_hf.hub import PushError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub().running() as fake:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield fake


@pytest.fixture
def trained(tmp_path):
    """A trainer whose frozen ViT came from a folder, and that folder."""
    base = tmp_path / "base"
    tiny.model("vit").save_pretrained(base)
    model = AutoModelForImageClassification.from_pretrained(base)
    trainer = tiny.trainer(tmp_path / "out", model, freeze_backbone=True, max_steps=4, **tiny.BARE)
    trainer.train()
    return trainer, base


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(
            pixel_values=torch.randn(3, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0))
        ).logits


def test_the_pulled_head_gives_bitwise_equal_logits(hub, trained):
    trainer, base = trained
    url = trainer.push_head_to_hub("me/head", private=True)
    assert url.startswith(f"{hub.url}/me/head/commit/")
    assert hub.repos["me/head"]["visibility"] == "private"
    assert set(hub.files("me/head")) == {"config.json", "selmix_head.safetensors"}
    pulled = SelMixHead.from_pretrained("me/head")
    expected = logits(trainer.model)
    assert torch.equal(logits(pulled.load_base()), expected)
    again = AutoModelForImageClassification.from_pretrained(base)
    assert not torch.equal(logits(again), expected)
    assert torch.equal(logits(pulled.attach(again)), expected)
    assert again.config.id2label == dict(enumerate(tiny.NAMES))
    here = SelMixHead.from_pretrained(trainer.args.output_dir + "/head")
    assert torch.equal(logits(here.load_base()), expected)


def test_a_revision(hub, trained):
    trainer, _ = trained
    trainer.push_head_to_hub("me/head", revision="v2")
    assert hub.files("me/head") == {} and len(hub.files("me/head", "v2")) == 2
    SelMixHead.from_pretrained("me/head", revision="v2")
    with pytest.raises(FileNotFoundError, match="no head could be read from 'me/head'"):
        SelMixHead.from_pretrained("me/head")


def test_a_failed_push_loses_nothing_and_is_repeated(hub, trained, monkeypatch):
    trainer, _ = trained
    with monkeypatch.context() as without:
        without.delenv("HF_TOKEN")
        with pytest.raises(PushError, match="no valid token; run `hf auth login`.*Nothing is lost") as failure:
            trainer.push_head_to_hub("me/head")
    with pytest.raises(PushError, match="the token may not write there"):
        trainer.push_head_to_hub("strangers/head")
    hub.failures.append(500)
    with pytest.raises(PushError, match="the Hub answered 500; try again later"):
        trainer.push_head_to_hub("me/head")
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
            trainer.push_head_to_hub("me/head")
    with monkeypatch.context() as nobody:
        nobody.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(PushError, match="ConnectError"):
            trainer.push_head_to_hub("me/head")
    assert hub.num_commits == 0
    eval(re.search(r"To repeat the push: (.*)", str(failure.value))[1], {"SelMixHead": SelMixHead})
    assert len(hub.files("me/head")) == 2
    trainer.push_head_to_hub("me/head")  # unchanged: no error


def test_attach_says_what_differs(trained):
    trainer, base = trained
    head = SelMixHead.from_model(trainer.model, trainer.head, trainer.class_names)
    with pytest.raises(ValueError, match=r"the head, \(5, 16\) in the model: load the model with num_labels=4"):
        head.attach(AutoModelForImageClassification.from_pretrained(base, num_labels=5, ignore_mismatched_sizes=True))
    with pytest.raises(ValueError, match="a parameter 'classifier.weight'.* has none"):
        head.attach(torch.nn.Linear(2, 2))
    other = AutoModelForImageClassification.from_pretrained(base)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    before = other.classifier.weight.clone()
    with pytest.raises(ValueError, match="backbone is not the one .* expected fingerprint [0-9a-f]{12} .* found"):
        head.attach(other)
    assert torch.equal(other.classifier.weight, before)


def test_what_cannot_be_a_head(hub, tmp_path):
    whole = tiny.trainer(tmp_path / "out", tiny.model("vit"), freeze_backbone=False, max_steps=1)
    with pytest.raises(ValueError, match=r"the backbone was trained too.* push_to_hub\(\)"):
        whole.push_head_to_hub("me/head")
    bare = tiny.trainer(tmp_path / "out", tiny.model("vit"), freeze_backbone=True, max_steps=1)
    with pytest.raises(ValueError, match="was not loaded by from_pretrained"):
        bare.push_head_to_hub("me/head")
    with pytest.raises(FileNotFoundError, match="nor on the Hub"):
        SelMixHead.from_pretrained("me/nothing")


def test_the_whole_model(hub, trained, monkeypatch):
    trainer, _ = trained
    trainer.args.hub_model_id = "me/whole"
    trainer.push_head_to_hub("me/head")  # leaves output_dir/head
    hub.failures.append(503)
    with pytest.raises(PushError, match="answered 503.*trainer.push_to_hub"):
        trainer.push_to_hub()
    trainer.push_to_hub()
    files = set(hub.files("me/whole"))
    assert {"config.json", "model.safetensors"} <= files
    assert not [f for f in files if f.endswith((".bin", ".pt", ".pth")) or f.startswith(("checkpoint", "head"))]
    pulled = AutoModelForImageClassification.from_pretrained("me/whole")
    assert torch.equal(logits(pulled), logits(trainer.model))

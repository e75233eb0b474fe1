"""The trainer and the Hub: what goes up after a run, what stays, what a failed push says."""

import json
import re

import huggingface_hub
import pytest
import tiny
import torch
from fake_hub import TOKEN, interrupt
from pushed import SAVING, WHOLE, pushing
from transformers import AutoImageProcessor, AutoModelForImageClassification

from selmix_hf import save_plots
from selmix_hf.hub.upload import PushError


def test_the_whole_model(hub, trained):
    trainer = trained
    trainer.args.hub_model_id = "me/whole"
    hub.failures.append(503)
    with pytest.raises(PushError, match="answered 503.*trainer.push_to_hub"):
        trainer.push_to_hub()
    trainer.push_to_hub()
    assert set(hub.files("me/whole")) == WHOLE
    pulled = AutoModelForImageClassification.from_pretrained("me/whole")
    assert torch.equal(tiny.logits(pulled), tiny.logits(trainer.model))
    assert 'pipeline("image-classification", "me/whole")' in hub.files("me/whole")["README.md"].decode()


def test_what_lies_in_output_dir_and_stays_there(hub, tmp_path):
    """Everything but the model, its card, plots, split and numbers."""
    out = tmp_path / "out"
    options = {"freeze_backbone": True, "feature_cache_dir": str(out), "max_steps": 4}
    trainer = tiny.trainer(out, "vit", **{**SAVING, **options})
    trainer.train()
    save_plots(trainer, out / "plots")
    plots = {f"plots/{path.name}" for path in (out / "plots").iterdir()}
    stray = ["tmp0x1/model.safetensors", "stage1/model.safetensors", "stage1/checkpoint-3/optimizer.pt", "runs/events"]
    stray += [
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "selmix_state.safetensors",
        "plots/a.csv",
        "plots/x.model",
    ]
    stray += ["trainer_state.json", "head/config.json", "wandb/run.json", ".env", "secrets.json", "train.py", "x.log"]
    for name in [*stray, "split.json", "results.json", "LICENSE"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    (out / "split.json").write_text(json.dumps({"train": [1], "validation": [2]}))
    trainer.push_to_hub()
    here = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"training_args.bin", "checkpoint-4/optimizer.pt", *stray} <= here
    assert any(re.fullmatch(r"[0-9a-f]{32}\.safetensors", name) for name in here)  # stored features
    assert len(plots) >= 3
    assert set(hub.files("me/out")) == {*WHOLE, *plots, "split.json", "results.json", "LICENSE"}


def test_the_token_is_missed_before_the_run_not_after_it(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.delenv("HF_TOKEN")
        with pytest.raises(
            PushError, match=r"opening the repository 'out' failed: no valid token.*Nothing was trained yet"
        ):
            pushing(tmp_path / "out")
    with pytest.raises(PushError, match="opening the repository 'strangers/x' failed: the token may not write there"):
        pushing(tmp_path / "out", hub_model_id="strangers/x")
    with monkeypatch.context() as nobody:
        nobody.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(PushError, match="no connection to the Hub.*push_to_hub=False and call push_to_hub"):
            pushing(tmp_path / "out")
    assert hub.repos == {}


def test_a_model_is_saved_even_if_its_push_fails(hub, tmp_path, warnings):
    trainer = pushing(tmp_path / "out", max_steps=1, hub_strategy="end", hub_private_repo=True)
    trainer.train()
    hub.failures.append(500)
    trainer.save_model()
    assert WHOLE <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "the Hub answered 500" in warnings[-1] and "trainer.push_to_hub(" in warnings[-1]
    eval(re.search(r"To repeat the push: (.*)", warnings[-1])[1], {"trainer": trainer})
    assert set(hub.files("me/out")) == WHOLE
    assert hub.repos["me/out"]["visibility"] == "private"


def test_the_call_that_repeats_a_push_is_the_same_call(hub, trained):
    hub.failures.append("drop")
    with pytest.raises(PushError, match="there is no connection to the Hub, or it broke off") as failure:
        trained.push_to_hub("my message", private=True, revision="v2", license="mit", token=TOKEN)
    assert TOKEN not in str(failure.value) and hub.commits == []
    eval(re.search(r"To repeat the push: (.*)", str(failure.value))[1], {"trainer": trained})
    assert hub.commits == ["my message"]
    assert set(hub.files("me/out", "v2")) == WHOLE
    assert "license: mit" in hub.files("me/out", "v2")["README.md"].decode()


def test_ctrl_c_during_a_push(hub, trained, warnings):
    hub.failures.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained.push_to_hub(private=True)
    (said,) = warnings
    assert re.search("the push to 'me/out' was interrupted. Nothing is lost: the files are in .*/out", said)
    eval(re.search(r"To repeat the push: (.*)", said)[1], {"trainer": trained})
    assert set(hub.files("me/out")) == WHOLE


def test_a_bad_card_is_refused_and_the_reason_told(hub, trained):
    with pytest.raises(PushError, match='does not accept the card\'s metadata: "license" must be one of') as failure:
        trained.push_to_hub(license="Apache 2")
    assert "'Apache 2'" in str(failure.value) and hub.commits == []
    with pytest.raises(PushError, match=r'"datasets\[0\]" with value "my own images" is not valid'):
        trained.push_to_hub(dataset_tags="my own images")
    trained.push_to_hub(license="apache-2.0", dataset_tags="me/images")
    assert set(hub.files("me/out")) == WHOLE


def test_a_pushed_processor_is_pulled(hub, trained):
    trained.push_to_hub()
    assert AutoImageProcessor.from_pretrained("me/out").size == {"height": tiny.SIDE, "width": tiny.SIDE}


def test_no_path_of_this_machine_is_uploaded(hub, tmp_path):
    tiny.model("vit").save_pretrained(tmp_path / "base")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    trainer = tiny.trainer(tmp_path / "out", model, max_steps=1, **tiny.BARE)
    trainer.push_to_hub()
    assert set(hub.files("me/out")) == WHOLE
    for name in WHOLE - {"model.safetensors"}:
        assert str(tmp_path) not in hub.files("me/out")[name].decode(), name

"""The trainer and the Hub: what goes up after a run and during it, what stays, what a failed push says."""

import json
import os
import re
import threading
import time

import huggingface_hub
import pytest
import tiny
import torch
from fake_hub import TOKEN, interrupt
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback, TrainingArguments

from selmix_hf import SelMixHead, Stage1Trainer, save_plots
from selmix_hf.hub.upload import PushError

MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}
WHOLE = {*MODEL, "README.md"}
SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "load_best_model_at_end": False}


def pushing(folder, **options):
    return tiny.trainer(folder, "vit", push_to_hub=True, **{**SAVING, "max_steps": 4, **options})


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


def test_the_head_alone_uses_the_tokens_and_answers_of_its_own(hub, trained, tmp_path):
    trained.push_head_to_hub("head", license="mit")
    assert "# me/head" in hub.files("me/head")["README.md"].decode()  # with its owner
    SelMixHead.from_pretrained("me/head")
    whole = tiny.trainer(tmp_path / "whole", tiny.model("vit"), freeze_backbone=False, max_steps=1)
    with pytest.raises(ValueError, match=r"the backbone was trained too.* push_to_hub\(\)"):
        whole.push_head_to_hub("me/head")


def test_stage_1_pushes_no_optimizer_either(hub, tmp_path):
    trainer = Stage1Trainer(
        tiny.model("vit"),
        TrainingArguments(
            str(tmp_path / "stage1"),
            push_to_hub=True,
            hub_strategy="all_checkpoints",
            hub_always_push=True,
            max_steps=2,
            save_steps=1,
            per_device_train_batch_size=8,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=tiny.images(),
        processing_class=tiny.processor(),
    )
    trainer.train()
    checkpoints = {f"checkpoint-{step}/{name}" for step in (1, 2) for name in MODEL}
    assert set(hub.files("me/stage1")) == {*MODEL, *checkpoints}
    trainer.push_to_hub()
    assert set(hub.files("me/stage1")) == {*WHOLE, *checkpoints}
    ModelCard(hub.files("me/stage1")["README.md"].decode()).validate()


def test_no_path_of_this_machine_is_uploaded(hub, tmp_path):
    tiny.model("vit").save_pretrained(tmp_path / "base")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    trainer = tiny.trainer(tmp_path / "out", model, max_steps=1, **tiny.BARE)
    trainer.push_to_hub()
    assert set(hub.files("me/out")) == WHOLE
    for name in WHOLE - {"model.safetensors"}:
        assert str(tmp_path) not in hub.files("me/out")[name].decode(), name

"""Adapters of peft in a run: trained, saved, loaded, resumed and pushed beside the head."""

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from adapters import FILES, loaded_base, stage1
from huggingface_hub import ModelCard
from torch import nn
from transformers import AutoModelForImageClassification

from selmix_hf import SelMixTrainer, save_plots
from selmix_hf.models.peft_models import base_name_of

peft = pytest.importorskip("peft")

ROOT = Path(__file__).parents[2]


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "dinov2", "test_vit", "deit-distilled", "resnet"])
def test_adapter_and_head_train_and_nothing_else(kind, tmp_path):
    trainer = tiny.trainer(tmp_path, tiny.lora(kind), max_steps=3, refresh_steps=2, **tiny.BARE)
    heads = tiny.HEADS.get(kind, ["classifier"])
    assert list(trainer.head.names) == [f"base_model.model.{name}.modules_to_save.default" for name in heads]
    assert all(type(module) is nn.Linear for module in trainer.head.modules)

    of_head, adapter = trainer.create_optimizer().param_groups[0], trainer.optimizer.param_groups[-1]
    assert (of_head["lr"], adapter["lr"]) == (0.1, 0.01)
    expected = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    given = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    assert {name for name, weight in trainer.model.named_parameters() if id(weight) in given} == expected
    assert all(".lora_" in name or ".modules_to_save." in name for name in expected)

    before = tiny.weights(trainer)
    trainer.train()
    after = tiny.weights(trainer)  # with the running statistics of batch-norm
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= expected
    assert any(".lora_B." in name for name in changed)
    assert {f"{name}.weight" for name in trainer.head.names} <= changed


def test_an_adapter_without_effect_leaves_the_run_as_it_was(tmp_path):
    """Rate 0: pairs, losses and head are those of the same model without adapter, whose backbone stands still."""
    options = {"backbone_learning_rate": 0.0, "objective": "mean_recall", **tiny.BARE}
    plain = tiny.trainer(tmp_path / "plain", "vit", **options)
    adapted = tiny.trainer(tmp_path / "adapted", tiny.lora("vit"), **options)
    for trainer in (plain, adapted):
        trainer.train()
    assert torch.equal(plain.pair_state.probability, adapted.pair_state.probability)
    assert torch.equal(plain.gain_counts, adapted.gain_counts)
    assert tiny.losses(plain) == pytest.approx(tiny.losses(adapted), abs=1e-6) and len(tiny.losses(plain)) == 8
    assert torch.allclose(plain.head.weight, adapted.head.weight, atol=1e-6)


def test_what_comes_with_a_run(run):
    test = tiny.images((6, 6, 6, 6), seed=2)
    report = run.evaluate(test, metric_key_prefix="test")  # raw images
    classes = run.predicted_classes(test)
    own = [tiny.to_tensor(image) for image in test["image"]]
    with torch.no_grad():
        assert torch.equal(classes, run.model(pixel_values=torch.stack(own)).logits.argmax(-1))
    hits = classes == torch.tensor(test["label"])
    assert report["test_mean_recall"] == pytest.approx(float(hits.float().mean()))
    reports = [log for log in run.state.log_history if "gain_set_psi" in log]
    assert len(reports) == 2 and "stale_share" in reports[1]
    folder = Path(run.args.output_dir)
    save_plots(run, folder / "plots")
    assert len(list((folder / "plots").glob("*.png"))) >= 3
    run.create_model_card()
    card = ModelCard.load(folder / "README.md")
    card_text = (folder / "README.md").read_text()
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "image-classification"
    assert "its head and an adapter, LORA of rank 2 (alpha 8) on convolution, q_proj, qkv, v_proj" in card_text
    assert "all of its weights" not in card_text and str(base_name_of(run.model)) not in card_text
    run.save_model()
    assert (folder / "README.md").read_text() == card_text  # peft would write into it


@pytest.mark.parametrize(
    "options",
    [{"reuse_samples": True}, {"mixing": "puzzlemix"}, {"activation_checkpointing": True}, {"gain_set_use": "refit"}],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_run(options, tmp_path):
    trainer = tiny.trainer(tmp_path, tiny.lora(), max_steps=2, **options, **tiny.BARE)
    before = tiny.weights(trainer)
    trainer.train()
    after = tiny.weights(trainer)
    assert any(".lora_B." in name for name in before if not torch.equal(before[name], after[name]))


# --- saved and gone on with --------------------------------------------------------------------------------------


def test_the_best_adapter_is_really_loaded(tmp_path):
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2, "max_steps": 4}
    trainer = tiny.trainer(tmp_path, tiny.lora(lora_dropout=0.2), **options)
    after_step, determine = {}, trainer._determine_best_metric

    def prefer_step_2(metrics, trial):  # the checkpoint to load is neither the first nor the last
        metrics["eval_selection_score"] = {0: 0.1, 2: 0.9}.get(trainer.state.global_step, 0.2)
        after_step[trainer.state.global_step] = tiny.weights(trainer)
        return determine(metrics, trial)

    trainer._determine_best_metric = prefer_step_2
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    differing = {name for name in after_step[2] if not torch.equal(after_step[2][name], after_step[4][name])}
    assert any(".lora_B." in name for name in differing) and any(".classifier." in name for name in differing)
    assert tiny.largest_difference(after_step[2], tiny.weights(trainer)) == 0
    checkpoint = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {*FILES, "selmix_state.safetensors", "optimizer.pt"} <= checkpoint
    assert not checkpoint & {"model.safetensors", "README.md", "config.json"}


@pytest.mark.parametrize("step", [3, 4], ids=["in the middle of a period", "at a boundary"])
@pytest.mark.parametrize("kind", ["vit", "test_vit"])
def test_a_resumed_run_is_bitwise_the_same(kind, step, tmp_path):
    options = {"save_strategy": "steps", "save_steps": step, "eval_strategy": "no", "load_best_model_at_end": False}
    options |= {"save_total_limit": 10}

    def trainer(folder):
        return tiny.trainer(folder, tiny.lora(kind, lora_dropout=0.2), **options)

    whole = trainer(tmp_path / "whole")
    whole.train()
    torch.manual_seed(1234)  # whatever the new process did before
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "again" / f"checkpoint-{step}")
    again = trainer(tmp_path / "again")
    again.train(resume_from_checkpoint=True)
    assert tiny.losses(again) == tiny.losses(whole)
    assert tiny.largest_difference(tiny.weights(again), tiny.weights(whole)) == 0
    started = tiny.weights(trainer(tmp_path / "start"))
    assert tiny.largest_difference(started, tiny.weights(whole)) > 1e-3


def test_stage_1_and_then_selmix_on_the_same_adapter(tmp_path):
    model = tiny.lora()
    first = stage1(tmp_path / "stage1", model, save_steps=1)
    before = tiny.weights(model)
    first.train()
    changed = {name for name, tensor in tiny.weights(model).items() if not torch.equal(tensor, before[name])}
    assert any(".lora_B." in name for name in changed)
    assert all(".lora_" in name or ".modules_to_save." in name for name in changed)
    assert FILES <= {path.name for path in (tmp_path / "stage1" / "checkpoint-2").iterdir()}
    resumed = stage1(tmp_path / "stage1", tiny.lora())
    shutil.rmtree(tmp_path / "stage1" / "checkpoint-2")
    resumed.train(resume_from_checkpoint=True)
    assert tiny.largest_difference(tiny.weights(resumed), tiny.weights(first)) == 0

    second = tiny.trainer(tmp_path / "selmix", model, max_steps=2, **tiny.BARE)
    second.train()
    second.save_model()
    pulled = peft.PeftModel.from_pretrained(tiny.model("vit"), tmp_path / "selmix")
    assert torch.equal(tiny.logits(pulled), tiny.logits(model))


# --- the Hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def model_of_hub(hub, base_folder):
    hub.put("me/base", base_folder)
    return tiny.lora(base=loaded_base("me/base"))


def test_a_pushed_run_is_adapter_head_and_card(hub, model_of_hub, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "load_best_model_at_end": False}
    trainer = tiny.trainer(
        tmp_path / "out", model_of_hub, push_to_hub=True, max_steps=2, hub_always_push=True, **saving
    )
    trainer.train()
    assert set(hub.files("me/out")) == FILES  # of the checkpoint, without peft's form
    trainer.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    trainer.push_to_hub(license="mit")
    assert set(hub.files("me/out")) == {*FILES, "README.md"}
    text = hub.files("me/out")["README.md"].decode()
    card = ModelCard(text)
    card.validate()
    assert (card.data.library_name, card.data.base_model) == ("peft", "me/base")
    assert card.data.base_model_relation == "adapter" and card.data.license == "mit"
    assert "# me/out" in text and "More Information Needed" not in text
    for name in hub.files("me/out"):
        assert str(tmp_path) not in hub.files("me/out")[name].decode(errors="ignore"), name

    scope = {}
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, scope)
    assert torch.equal(tiny.logits(scope["model"]), tiny.logits(trainer.model))


def test_a_base_that_others_cannot_load_is_refused(hub, run, tmp_path):
    sentence = "the adapter's base model is '.*', a path of this machine, .*base_model_name_or_path.*merge_and_unload"
    with pytest.raises(ValueError, match=sentence):
        run.push_to_hub()
    with pytest.raises(ValueError, match=sentence):  # before anything is trained
        tiny.trainer(tmp_path, tiny.lora(base=loaded_base(base_name_of(run.model))), push_to_hub=True)
    with pytest.raises(ValueError, match="the adapter's base model is not known, so nobody else could find the backb"):
        tiny.trainer(tmp_path, tiny.lora(), push_to_hub=True)
    assert hub.commits == []
    hub.put("me/base", Path(base_name_of(run.model)))
    config = run.model.peft_config["default"]
    before, config.base_model_name_or_path = config.base_model_name_or_path, "me/base"
    run.push_to_hub()
    config.base_model_name_or_path = before
    assert json.loads(hub.files("me/out")["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    assert ModelCard(hub.files("me/out")["README.md"].decode()).data.base_model == "me/base"


def test_stage_1_pushes_its_adapter(hub, model_of_hub, tmp_path):
    trainer = stage1(tmp_path / "stage1", model_of_hub, push_to_hub=True, save_strategy="no")
    trainer.train()
    trainer.push_to_hub()
    assert set(hub.files("me/stage1")) == {*FILES, "README.md"}
    card = ModelCard(hub.files("me/stage1")["README.md"].decode())
    card.validate()
    assert (card.data.library_name, card.data.base_model) == ("peft", "me/base")


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_code_of_the_page_runs(base_folder, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "lora.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    assert text.count("google/vit-base-patch16-224-in21k") == 1
    code = "\n".join(blocks).replace("google/vit-base-patch16-224-in21k", str(base_folder))
    short = "max_steps=2, refresh_steps=2, per_device_train_batch_size=4, use_cpu=True"
    for long, other in (
        ('TrainingArguments("stage1", max_steps=1000', 'TrainingArguments("stage1", max_steps=2, use_cpu=True'),
        ('SelMixConfig("out",', f'SelMixConfig("out", {short},'),
    ):
        assert code.count(long) == 1
        code = code.replace(long, other)
    monkeypatch.chdir(tmp_path)
    splits = {"train": tiny.images(), "validation": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    scope = {"splits": splits, "test_dataset": tiny.images((6, 6, 6, 6), seed=2)}
    exec(code, scope)
    assert isinstance(scope["trainer"], SelMixTrainer)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES
    assert scope["model"].config.id2label == dict(enumerate(tiny.NAMES))
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == dict(enumerate(tiny.NAMES))
    assert torch.allclose(tiny.logits(merged), tiny.logits(scope["trainer"].model), atol=1e-6)

"""Adapters of peft: found, trained, saved, loaded, resumed, merged and pushed beside the head."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from token_ids import bert
from torch import nn
from transformers import AutoModelForImageClassification, TrainingArguments, pipeline

from selmix_hf import SelMixHead, SelMixTrainer, Stage1Trainer, save_plots
from selmix_hf.models.head import HeadError
from selmix_hf.models.peft_models import base_name_of, base_of, describe_adapter, find_trained_head, load_adapter

peft = pytest.importorskip("peft")

ROOT = Path(__file__).parents[2]
FILES = {"adapter_config.json", "adapter_model.safetensors", "class_names.json", "preprocessor_config.json"}
INPUTS = {"pixel_values": torch.zeros(2, 3, tiny.SIDE, tiny.SIDE)}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A base with seven classes and its image processor: that of another task."""
    folder = tmp_path_factory.mktemp("base")
    tiny.model("vit", num_classes=7).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


def loaded_base(folder, **options):
    options = options or {"num_labels": 4}
    return AutoModelForImageClassification.from_pretrained(folder, ignore_mismatched_sizes=True, **options)


@pytest.fixture(scope="module")
def run(base_folder, tmp_path_factory):
    """A run of eight steps that ended with its last weights, saved to output_dir."""
    model = tiny.lora(base=loaded_base(base_folder))
    trainer = tiny.trainer(tmp_path_factory.mktemp("run") / "out", model, **tiny.BARE)
    trainer.train()
    trainer.save_model()
    return trainer


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


def test_text():
    model = peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"))
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.long)}
    (name,) = find_trained_head(model, inputs).names
    assert name == "base_model.model.classifier.modules_to_save.default"


# --- what is refused ---------------------------------------------------------------------------------------------


def with_effect(model):
    """An adapter that has been trained: its second matrices are no longer zero."""
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(weight)
    return model


@pytest.mark.parametrize(
    ("options", "change", "sentence"),
    [
        ({"modules_to_save": None}, None, r"'classifier' frozen: gains .* LoraConfig\(..., modules_to_save=\['classi"),
        (
            {"kind": "test_vit", "modules_to_save": None},
            None,
            r"'timm_model.head' frozen: .*modules_to_save=\['timm_model.head'\]\)\)",
        ),
        (
            {"kind": "deit-distilled", "modules_to_save": None},
            None,
            r"'cls_classifier' and 'distillation_classifier' frozen.*=\['cls_classifier', 'distillation_classifier'\]",
        ),
        (
            {"modules_to_save": None, "target_modules": "all-linear"},
            None,
            r"'classifier' with an adapter on it: .*modules_to_save=\['classifier'\]",
        ),
        (
            {"modules_to_save": None, "target_modules": "all-linear"},
            with_effect,
            r"'classifier' with an adapter on it: .*modules_to_save=\['classifier'\]",
        ),
        ({}, lambda model: model.requires_grad_(False), r"'classifier' frozen: load the adapter .* is_trainable=True"),
    ],
    ids=["no head", "timm", "two heads", "adapter on it", "trained adapter on it", "for inference"],
)
def test_a_head_that_would_not_train(options, change, sentence, tmp_path):
    model = tiny.lora(**options)
    if change is not None:
        change(model)
    with pytest.raises(HeadError, match=f"expected a head that is trained, found {sentence}"):
        tiny.trainer(tmp_path, model)
    assert not list(tmp_path.iterdir())


def test_a_frozen_head_of_a_model_without_adapter(tmp_path):
    model = tiny.model("vit")
    model.classifier.requires_grad_(False)
    with pytest.raises(HeadError, match=r"found 'classifier' frozen: gains .* Call requires_grad_\(True\) on it"):
        tiny.trainer(tmp_path, model)
    tiny.trainer(tmp_path, model, freeze_backbone=True)  # trains it whatever it is


def test_other_adapters_are_refused(tmp_path):
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    with pytest.raises(ValueError, match=r"freeze_backbone=True trains the head alone.*model.merge_and_unload\(\)"):
        tiny.trainer(tmp_path, tiny.lora(), freeze_backbone=True)
    with pytest.raises(ValueError, match="expected one adapter called 'default', found 'mine': peft saves others in"):
        tiny.trainer(tmp_path, peft.get_peft_model(tiny.model("vit"), config, adapter_name="mine"))
    mixed = peft.get_peft_model(tiny.model("vit"), config, mixed=True)
    with pytest.raises(TypeError, match="found a PeftMixedModel with adapters of several kinds"):
        tiny.trainer(tmp_path, mixed)
    with pytest.raises(ValueError, match="the adapter belongs to the backbone, so the head alone is of no use"):
        trainer = tiny.trainer(tmp_path, tiny.lora())
        SelMixHead.from_model(trainer.model, trainer.head, trainer.class_names, "me/base")
    with pytest.raises(ValueError, match=r"the backbone was trained too.* push_to_hub\(\)"):
        trainer.push_head_to_hub("me/head")


def test_an_adapter_inside_a_model_of_transformers_is_refused(run, tmp_path):
    """What AutoModel makes of the folder of an adapter."""
    model = loaded_base(run.args.output_dir)
    sentence = r"found a ViTForImageClassification with adapters of its own .*from_pretrained\(base, folder, is_train"
    for make in (tiny.trainer, stage1):
        with pytest.raises(TypeError, match=sentence):
            make(tmp_path, model)


def test_a_raw_timm_model_is_refused_inside_an_adapter_too(tmp_path):
    raw = tiny.model("test_vit").timm_model
    config = peft.LoraConfig(target_modules=["qkv"], modules_to_save=["head"])
    with pytest.raises(TypeError, match="a raw timm model cannot be saved"):
        tiny.trainer(tmp_path, peft.get_peft_model(raw, config), processing_class=tiny.processor())


# --- saving and loading ------------------------------------------------------------------------------------------


def test_the_saved_folder_is_adapter_and_head(run, base_folder):
    folder = Path(run.args.output_dir)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert FILES <= names and not names & {"model.safetensors", "config.json"}
    saved = load_file(folder / "adapter_model.safetensors")
    assert {name for name in saved if ".lora_" not in name} == {
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }
    assert json.loads((folder / "class_names.json").read_text()) == list(tiny.NAMES)
    assert sum(tensor.numel() for tensor in saved.values()) < 0.1 * base_of(run.model).num_parameters()

    expected = tiny.logits(run.model)
    pulled = peft.PeftModel.from_pretrained(loaded_base(base_folder), folder)
    assert torch.equal(tiny.logits(pulled), expected)
    auto = peft.AutoPeftModel.from_pretrained(folder, num_labels=4, ignore_mismatched_sizes=True)
    assert torch.equal(tiny.logits(auto), expected)


def test_a_merged_model_is_a_standard_one(run, base_folder, tmp_path):
    expected = tiny.logits(run.model)
    again = peft.PeftModel.from_pretrained(loaded_base(base_folder), run.args.output_dir, is_trainable=True)
    trainer = tiny.trainer(tmp_path / "out", again, **tiny.BARE)  # with the hooks of a trainer
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny.processor().save_pretrained(tmp_path / "merged")
    pulled = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert tiny.largest_difference(tiny.weights(pulled), tiny.weights(merged)) == 0
    assert torch.allclose(tiny.logits(pulled), expected, atol=1e-6)
    assert pulled.config.id2label == dict(enumerate(tiny.NAMES))
    answer = pipeline("image-classification", str(tmp_path / "merged"), device="cpu")(tiny.images()[0]["image"])
    assert {row["label"] for row in answer} == set(tiny.NAMES)
    head = tiny.trainer(tmp_path / "head", merged, freeze_backbone=True, max_steps=2, **tiny.BARE)
    head.train()  # the head alone, on an adapter that is done
    assert torch.equal(head.model.vit.layers[0].attention.q_proj.weight, pulled.vit.layers[0].attention.q_proj.weight)


def test_a_foreign_adapter_is_not_loaded_in_part(run, tmp_path):
    source, folder = Path(run.args.output_dir), tmp_path / "adapter"
    model = tiny.lora(base=loaded_base(base_name_of(run.model)))
    tensors = load_file(source / "adapter_model.safetensors")
    head = "base_model.model.classifier.bias"
    first = next(name for name in tensors if ".lora_A." in name)

    def changed(**other):
        return {**tensors, **other}

    without = {name: tensor for name, tensor in tensors.items() if name != head}
    for content, sentence in (
        (without, rf"other tensors than that of the model: {head} is None there and \(4,\) here"),
        (changed(more=torch.ones(1)), r"other tensors .*: more is \(1,\) there and None here"),
        (changed(**{first: torch.ones(3, 16)}), r"q_proj.lora_A.weight is \(3, 16\) there and \(2, 16\) here"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("plots"))
        save_file(content, folder / "adapter_model.safetensors")
        before = tiny.weights(model)
        with pytest.raises(ValueError, match=sentence):
            load_adapter(model, folder)
        assert tiny.largest_difference(before, tiny.weights(model)) == 0
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no adapter_model.safetensors, so it was not saved from a model"):
        load_adapter(model, folder)
    other = tiny.lora(base=loaded_base(base_name_of(run.model)), lora_alpha=32)
    with pytest.raises(ValueError, match="other options .*: lora_alpha is 8 there and 32 here. Give get_peft_model"):
        load_adapter(other, source)
    load_adapter(model, source)
    assert torch.equal(tiny.logits(model), tiny.logits(run.model))


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


# --- stage 1 -----------------------------------------------------------------------------------------------------


def stage1(folder, model, **options):
    options = {"max_steps": 2, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1, **options}
    return Stage1Trainer(
        model,
        TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, **options),
        train_dataset=tiny.images(),
        processing_class=tiny.processor(),
    )


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


# --- the package -------------------------------------------------------------------------------------------------


def test_peft_is_not_needed(tmp_path):
    """It is not imported at first sight, and a run goes its way where it is not installed."""
    code = f"""
import sys
import selmix_hf, selmix_hf.models.peft_models
assert "peft" not in sys.modules
sys.modules["peft"] = None  # an import of it fails from here on
import tiny
run = tiny.trainer({str(tmp_path)!r}, "vit", max_steps=2)
run.train()
assert run.state.global_step == 2
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_models_without_adapter_are_what_they_are():
    model = tiny.model("vit")
    assert base_of(model) is model and describe_adapter(model) is None and base_name_of(model) == ""


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

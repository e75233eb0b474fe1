"""Adapters of peft: found and refused, saved, merged and loaded beside the head."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from adapters import FILES, loaded_base, stage1
from safetensors.torch import load_file, save_file
from token_ids import bert
from torch import nn
from transformers import AutoModelForImageClassification, pipeline

from selmix_hf import SelMixHead
from selmix_hf.models.head import HeadError
from selmix_hf.models.peft_models import base_name_of, base_of, describe_adapter, find_trained_head, load_adapter

peft = pytest.importorskip("peft")

ROOT = Path(__file__).parents[2]


def test_text():
    model = peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"))
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.long)}
    (name,) = find_trained_head(model, inputs).names
    assert name == "base_model.model.classifier.modules_to_save.default"


def test_an_adapter_of_a_text_task_on_images_is_the_cause():
    options = {"task_type": "SEQ_CLS", "target_modules": ["qkv"]}
    model = peft.get_peft_model(tiny.model("test_vit"), peft.LoraConfig(**options))
    with pytest.raises(HeadError, match=r"has task_type='SEQ_CLS', .* takes pixel_values: leave task_type out"):
        find_trained_head(model, {"pixel_values": torch.zeros(2, 3, 32, 32)})


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

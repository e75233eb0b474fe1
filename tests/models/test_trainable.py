"""What is trained is a plain float32 model, and the log says what was done for it."""

import logging

import pytest
import tiny
import torch
from transformers import AutoModelForImageClassification

from selmix_hf import FixMatchTrainer, SelMixTrainer, Stage1Trainer
from selmix_hf.models.trainable import as_trained, half_precision

QUICK = {"max_steps": 2, "refresh_steps": 2, **tiny.BARE}


def made(kind, model, folder, **options):
    """A trainer of a kind on tiny images."""
    given = {"train_dataset": tiny.images(), "processing_class": tiny.processor()}
    if kind is SelMixTrainer:
        given["gain_dataset"] = tiny.images(tiny.GAIN_COUNTS, seed=1)
    if kind is FixMatchTrainer:
        given |= {"unlabeled_dataset": tiny.unlabeled(), "mu": 1}
    return kind(model, tiny.config(folder, **{**QUICK, **options}), **given)


@pytest.fixture
def said(caplog):
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.mark.parametrize("kind", [SelMixTrainer, Stage1Trainer, FixMatchTrainer])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_trained_in_float32(kind, dtype, tmp_path, said):
    run = made(kind, tiny.model("vit").to(dtype), tmp_path)
    assert f"the weights of the model are {str(dtype).removeprefix('torch.')}, in which" in said.text
    before = tiny.weights(run)
    run.train()
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    moved = [(weight != before[name]).float().mean() for name, weight in run.model.state_dict().items()]
    assert min(moved) > 0.9  # in half precision most stand still


@pytest.mark.parametrize("options", [{"freeze_backbone": True}, {}], ids=["frozen", "an adapter"])
def test_so_is_a_head_on_what_does_not_train(options, tmp_path, said):
    base = tiny.model("vit").to(torch.bfloat16)
    run = made(SelMixTrainer, base if options else tiny.lora(base=base), tmp_path, **options)
    run.train()
    assert half_precision(run.model) is None and "it is trained in float32" in said.text


@pytest.mark.parametrize("kind", [SelMixTrainer, Stage1Trainer])
def test_so_is_what_a_function_makes(kind, tmp_path):
    given = {"train_dataset": tiny.images(), "processing_class": tiny.processor()}
    given |= {"gain_dataset": tiny.images(tiny.GAIN_COUNTS, seed=1)} if kind is SelMixTrainer else {}

    def make():
        return torch.compile(tiny.model("vit").to(torch.bfloat16))

    run = kind(args=tiny.config(tmp_path, **QUICK), model_init=make, **given)
    run.train()
    assert half_precision(run.model) is None and not any("_orig_mod" in name for name in tiny.weights(run))


def test_float32_is_left_alone(said):
    model = tiny.model("vit")
    assert as_trained(model) is model and not said.messages
    assert as_trained("a name") == "a name"


def test_a_quantised_model(said):
    model = tiny.model("vit").to(torch.bfloat16)
    model.is_quantized = True
    with pytest.raises(ValueError, match="quantised model are bfloat16, .*prepare_model_for_kbit_training"):
        as_trained(model)
    assert as_trained(model.requires_grad_(False)) is model and half_precision(model) == "bfloat16"


@pytest.mark.parametrize("kind", [SelMixTrainer, Stage1Trainer, FixMatchTrainer])
def test_a_compiled_model_is_trained_and_saved_as_it_was(kind, tmp_path, said):
    model = tiny.model("vit")
    run = made(kind, torch.compile(model), tmp_path)
    assert run.model is model and said.text.count("set torch_compile=True instead") == 1
    run.train()
    run.save_model(str(tmp_path / "saved"))
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert tiny.largest_difference(tiny.weights(saved), tiny.weights(run)) == 0


def test_compiled_parts():
    model = tiny.model("vit")
    names = list(model.state_dict())
    model.vit.layers[0] = torch.compile(model.vit.layers[0])
    model.classifier.compile()
    assert any("_orig_mod" in name for name in model.state_dict())
    assert as_trained(model) is model and list(model.state_dict()) == names
    assert model.classifier._compiled_call_impl is None

"""The wide residual networks of the semi-supervised papers: their sizes by hand, saved, reloaded and fine-tuned."""

import itertools
import subprocess
import sys

import pytest
import tiny
import torch
from timm import create_model
from transformers import AutoImageProcessor, AutoModelForImageClassification

from selmix_hf import SelMixHead
from selmix_hf.models.head_search import find_head
from selmix_hf.models.loading import load_classifier, load_for_classes
from selmix_hf.models.wide_resnet import WideResNet


def weights_by_hand(channels, num_blocks, num_classes):
    """3 x 3 convolutions, their batch norms (two numbers a channel), 1 x 1 shortcuts, the stem and the head."""
    total = 3 * 9 * 16
    for inputs, outputs in itertools.pairwise(channels):
        total += 9 * inputs * outputs + 2 * inputs + 9 * outputs**2 + 2 * outputs + inputs * outputs
        total += (num_blocks - 1) * (2 * 9 * outputs**2 + 4 * outputs)
    return total + 2 * channels[-1] + channels[-1] * num_classes + num_classes


@pytest.mark.parametrize(
    ("name", "channels", "num_blocks"),
    [
        ("wrn_28_2", [16, 32, 64, 128], 4),
        ("wrn_28_8", [16, 128, 256, 512], 4),
        ("wrn_37_2", [16, 32, 64, 128, 256], 4),
    ],
)
def test_number_of_weights(name, channels, num_blocks):
    model = create_model(name, num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == weights_by_hand(channels, num_blocks, 10)
    assert model.num_features == channels[-1]


def test_shapes_and_classifier():
    model = create_model("wrn_28_2", num_classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    assert model.forward_features(x).shape == (2, 128, 8, 8)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 128)
    assert model(x).shape == (2, 7) and model.get_classifier().out_features == 7
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).shape == (2, 128)
    with pytest.raises(ValueError, match="depth must be 6 n . 4"):
        WideResNet(depth=27)


def test_batch_norm_is_slow_and_shortcuts_start_from_the_activated_input():
    model = create_model("wrn_28_2")
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 25 and {norm.momentum for norm in norms} == {0.001}
    block = model.groups[0][0].eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = -torch.ones(1, 16, 4, 4)
    expected = block.shortcut(torch.nn.functional.leaky_relu(block.norm1(x), 0.1))
    assert torch.equal(block(x), expected)


def test_from_random_weights_to_selmix_and_back(tmp_path):
    model, processor = load_for_classes("wrn_28_2", tiny.NAMES)
    assert processor.data_config["input_size"] == (3, 32, 32)
    rates = {"learning_rate": 1e-3, "backbone_learning_rate": 1e-4}  # no batch norm has statistics yet
    options = {"processing_class": processor, "max_steps": 2, "refresh_steps": 1, **rates, **tiny.BARE}
    run = tiny.trainer(tmp_path / "out", model, **options)
    before = tiny.weights(run)
    assert find_head(model, {"pixel_values": torch.randn(2, 3, 32, 32)}).num_features == 128
    run.train()
    assert tiny.largest_difference(before, tiny.weights(run)) > 0
    run.save_model()
    again, _ = load_classifier(str(tmp_path / "out"), tiny.NAMES)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(pixel_values=x).logits, run.model.eval()(pixel_values=x).logits)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.id2label[3] == "grey"
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").data_config["mean"] == pytest.approx(
        (0.4914, 0.4822, 0.4465)
    )


def test_random_weights_are_those_of_the_papers():
    """Which the wrapper's constructor does not keep."""
    torch.manual_seed(0)
    model = load_for_classes("wrn_28_2", tiny.NAMES)[0]
    for conv in (model.timm_model.groups[0][1].conv1, model.timm_model.groups[2][3].conv2):
        assert conv.weight.std().item() == pytest.approx((2 / (1.01 * 9 * conv.out_channels)) ** 0.5, rel=0.03)
    assert model.timm_model.fc.weight.std().item() == pytest.approx((2 / (128 + 4)) ** 0.5, rel=0.15)
    made = type(model)(model.config).timm_model.groups[2][3].conv2.weight
    assert made.std().item() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize(("name", "pooled"), [("wrn_28_2", 8), ("wrn_28_8", 8), ("wrn_37_2", 12)])
def test_what_is_pooled_is_as_registered(name, pooled):
    model = create_model(name).eval()
    with torch.no_grad():
        found = model.forward_features(torch.randn(1, *model.pretrained_cfg["input_size"])).shape[-1]
    assert (found, found) == tuple(model.pretrained_cfg["pool_size"]) == (pooled, pooled)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide_resnet")
    for part in load_for_classes("wrn_28_2", tiny.NAMES):
        part.save_pretrained(folder)
    return str(folder)


def test_plain_transformers_needs_the_import(checkpoint):
    load = f"from transformers import pipeline; pipeline('image-classification', {checkpoint!r})"
    without = run(load)
    assert without.returncode != 0 and "'wrn_28_2' is not supported in your version of timm" in without.stderr
    after = run(f"import selmix_hf.wide_resnet; {load}")
    assert after.returncode == 0, after.stderr


def test_a_head_alone_finds_its_base_and_the_card_says_what_to_import(checkpoint, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    trainer = tiny.trainer(tmp_path / "out", model, freeze_backbone=True, max_steps=1, **tiny.BARE)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert (
        "```python\nimport selmix_hf.wide_resnet  # of selmix_hf: timm itself lacks the architecture\nfrom tr" in card
    )
    SelMixHead.from_model(trainer.model, trainer.head, trainer.class_names).save_pretrained(tmp_path / "head")
    done = run(f"from selmix_hf import SelMixHead; SelMixHead.from_pretrained({str(tmp_path / 'head')!r}).load_base()")
    assert done.returncode == 0, done.stderr

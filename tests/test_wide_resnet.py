"""The wide residual networks of the semi-supervised papers: their sizes by hand, saved, reloaded and fine-tuned."""

import pytest
import tiny
import torch
from timm import create_model
from transformers import AutoImageProcessor, AutoModelForImageClassification

from selmix_hf.heads import find_head
from selmix_hf.loading import load_classifier, load_for_classes
from selmix_hf.wide_resnet import WideResNet


def weights_by_hand(channels, num_blocks, num_classes):
    """3 x 3 convolutions, their batch norms (two numbers a channel), 1 x 1 shortcuts, the stem and the head."""
    total = 3 * 9 * 16
    for inputs, outputs in zip(channels, channels[1:], strict=False):
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
    run = tiny.trainer(tmp_path / "out", model, processing_class=processor, max_steps=2, refresh_steps=1, **tiny.BARE)
    assert find_head(model, {"pixel_values": torch.randn(2, 3, 32, 32)}).num_features == 128
    run.train()
    run.save_model()
    again, _ = load_classifier(str(tmp_path / "out"), tiny.NAMES)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(pixel_values=x).logits, run.model.eval()(pixel_values=x).logits)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.id2label[3] == "grey"
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").data_config["mean"] == pytest.approx(
        (0.4914, 0.4822, 0.4465)
    )

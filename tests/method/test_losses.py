"""Stage-1 losses: by hand, and as `compute_loss_func` of an ordinary Trainer."""

import math

import pytest
import tiny
import torch
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from selmix_hf import BalancedSoftmaxLoss, ImageCollator, LDAMLoss, LogitAdjustedLoss
from selmix_hf.method.losses import effective_number_weights


def test_by_hand():
    """Logits (1, 0) and (0, 2), prior (3/4, 1/4): the shifted scores are (3e, 1) / 4 and (3, e^2) / 4."""
    loss = LogitAdjustedLoss([30, 10])
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    expected = [-math.log(3 * math.e / (3 * math.e + 1)), -math.log(math.e**2 / (3 + math.e**2))]
    assert float(loss(logits, labels)) == pytest.approx(sum(expected) / 2)
    assert float(loss(logits, labels, num_items_in_batch=8)) == pytest.approx(sum(expected) / 8)
    assert float(loss(ImageClassifierOutput(logits=logits), labels)) == pytest.approx(sum(expected) / 2)
    half = LogitAdjustedLoss([30, 10], tau=0.5)
    root = math.sqrt(3)
    assert float(half(logits[:1], labels[:1])) == pytest.approx(-math.log(root * math.e / (root * math.e + 1)))


def test_without_strength_or_imbalance_it_is_cross_entropy():
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.allclose(LogitAdjustedLoss([9, 3, 1], tau=0)(logits, labels), plain)
    assert torch.allclose(LogitAdjustedLoss([4, 4, 4])(logits, labels), plain)


def test_balanced_softmax_by_hand():
    """Weights 3 and 1 in the softmax; the same function as logit adjustment of strength 1."""
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    expected = [-math.log(3 * math.e / (3 * math.e + 1)), -math.log(math.e**2 / (3 + math.e**2))]
    assert float(BalancedSoftmaxLoss([30, 10])(logits, labels)) == pytest.approx(sum(expected) / 2)
    assert torch.allclose(BalancedSoftmaxLoss([30, 10])(logits, labels), LogitAdjustedLoss([30, 10])(logits, labels))


def test_ldam_by_hand():
    """Counts 16 and 1: margins in the ratio 1/2 to 1, the rarest class's is max_margin."""
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    expected = [-math.log(math.exp(0.75) / (math.exp(0.75) + 1)), -math.log(math.exp(1.5) / (math.exp(1.5) + 1))]
    assert float(LDAMLoss([16, 1])(logits, labels)) == pytest.approx(sum(expected) / 2)
    scaled = -math.log(math.exp(3 * 1.6) / (math.exp(3 * 1.6) + 1))
    assert float(LDAMLoss([16, 1], max_margin=0.4, scale=3)(logits[1:], labels[1:])) == pytest.approx(scaled, rel=1e-4)


def test_effective_number_by_hand():
    """beta = 1/2: effective numbers 1 and 3/2, weights in the ratio 3 to 2 with mean 1."""
    assert effective_number_weights([1, 2], beta=0.5).tolist() == pytest.approx([1.2, 0.8])
    huge = effective_number_weights([10**7, 1])
    assert huge[1] / huge[0] == pytest.approx(1e4, rel=1e-3)  # saturates at 1 / (1 - beta)


@pytest.mark.parametrize("make", [LogitAdjustedLoss, BalancedSoftmaxLoss, LDAMLoss, effective_number_weights])
@pytest.mark.parametrize("counts", [[3, 0], [[1, 2]], [3, -1]])
def test_bad_counts(counts, make):
    with pytest.raises(ValueError, match="class_counts must hold one positive number a class"):
        make(counts)


def test_class_weights_by_hand():
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    weighted = LDAMLoss([16, 1])
    weighted.class_weight_K = torch.tensor([2.0, 0.5])
    assert float(weighted(logits, labels)) == pytest.approx(2 * float(LDAMLoss([16, 1])(logits, labels)))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_in_an_ordinary_trainer(accumulation, tmp_path):
    """The first step equals one by hand, with and without accumulation."""
    data, model = tiny.images((5, 3, 3, 1)), tiny.model("convnext")
    loss = LogitAdjustedLoss([5, 3, 3, 1])
    batch = ImageCollator(transform=tiny.to_tensor)(list(data))
    model.train()
    expected = loss(model(pixel_values=batch["pixel_values"]), batch["labels"])
    gradient = torch.autograd.grad(expected, model.classifier.weight)[0]
    weight = model.classifier.weight.detach() - 0.1 * gradient

    options = {"per_device_train_batch_size": 12 // accumulation, "gradient_accumulation_steps": accumulation}
    options |= {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "logging_steps": 1}
    options |= {"lr_scheduler_type": "constant", "remove_unused_columns": False, "report_to": "none"}
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no", **options),
        ImageCollator(transform=tiny.to_tensor),
        data,
        compute_loss_func=loss,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(model.classifier.weight, weight, atol=1e-6)

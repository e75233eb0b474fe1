"""The head: tapped, mixed, run on features; on hand-made modules."""

import copy
import io

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from toy_heads import HEADS, B, Classifier, D, K

from selmix_hf.models.head import ClassifierHead, HeadError
from selmix_hf.models.head_search import find_head


@pytest.fixture(autouse=True)
def _fresh():
    torch.manual_seed(0)
    torch.compiler.reset()


@pytest.fixture
def inputs():
    return {"pixel_values": torch.randn(2 * B, 5)}


def by_hand(head: ClassifierHead, z, beta):
    beta = beta[:, None]
    return (beta * z[:B] + (1 - beta) * z[B:]) @ head.weight.T + (0 if head.bias is None else head.bias)


@pytest.mark.parametrize("kind", HEADS)
def test_find_tap_and_mix(kind, inputs):
    model = Classifier(HEADS[kind]()).eval()
    before = model(**inputs)
    head = find_head(model, inputs)
    assert (head.num_classes, head.num_features) == (K, D)
    assert len(head.names) == (2 if "averaged" in kind else 1)
    assert all(model.get_submodule(name) is module for name, module in zip(head.names, head.modules, strict=True))
    assert head.weight.shape == (K, D) and not head.weight.requires_grad

    with head.tap() as tapped:
        logits = model(**inputs)
    z = tapped.features
    assert z.shape == (2 * B, D) and not z.requires_grad
    assert torch.equal(z, model.features(**inputs))
    assert torch.equal(logits, before)
    assert torch.allclose(head.logits(z), before, atol=1e-6)
    assert torch.allclose(head(z), z @ head.weight.T + (0 if head.bias is None else head.bias), atol=1e-6)

    beta = torch.rand(B, dtype=torch.float64)
    with head.mix(beta):
        mixed = model(**inputs)
        assert head.logits(z).shape == (2 * B, K)  # a call of the head itself is not mixed
        assert torch.allclose(head.mixed_logits(z), mixed, atol=1e-6)  # unless it is asked for
    assert mixed.shape == (B, K)
    assert torch.allclose(mixed, by_hand(head, z, beta.float()), atol=1e-6)
    assert torch.equal(head.mixed_logits(z), head.logits(z))
    assert torch.equal(model(**inputs), before)

    mixed.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    head.remove()
    with pytest.raises(HeadError, match="found none"), head.mix(beta):
        model(**inputs)


@pytest.mark.parametrize("kind", HEADS)
def test_step_coefficients_are_those_of_an_sgd_step(kind):
    model = Classifier(HEADS[kind]()).double().eval()
    head = find_head(model, {"pixel_values": torch.randn(2, 5, dtype=torch.float64)})
    z, other = torch.randn(2, 1, D, dtype=torch.float64)
    before, p = head.logits(other).detach(), head.logits(z).softmax(1).detach()
    F.cross_entropy(head.logits(z), torch.tensor([1])).backward()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter -= 1e-3 * parameter.grad
        moved = (head.logits(other) - before) / 1e-3
    step = head.feature_step * (z @ other.T) + head.bias_step
    expected = step * (F.one_hot(torch.tensor([1]), K) - p)
    assert torch.allclose(moved, expected, atol=1e-9)


def test_wrong_use_is_told(inputs):
    model = Classifier(nn.Linear(D, K))
    head = find_head(model, inputs)
    with (
        pytest.raises(HeadError, match="Expected 6 samples for 3 mixing coefficients, found 8"),
        head.mix(torch.rand(3)),
    ):
        model(**inputs)
    with pytest.raises(HeadError, match="shape \\[B\\]"), head.mix(torch.rand(B, 1)):
        model(**inputs)
    with head.tap() as tapped, pytest.raises(HeadError, match="inside tap"):
        _ = tapped.features
    assert model(**inputs).shape == (2 * B, K)  # inert again after an error


def test_tap_inside_mix_reads_the_features_before_mixing(inputs):
    model = Classifier(nn.Linear(D, K)).eval()
    head = find_head(model, inputs)
    with head.tap() as tapped, head.mix(torch.rand(B)):
        model(**inputs)
    assert torch.equal(tapped.features, model.features(**inputs))


@pytest.mark.parametrize("kind", ["linear", "conv", "averaged"])
def test_compiled(kind, inputs):
    model = Classifier(HEADS[kind]()).eval()
    head = find_head(model, inputs)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        plain = compiled(**inputs)
        assert torch.allclose(plain, model(**inputs), atol=1e-6)
        with head.tap() as tapped:
            compiled(**inputs)
        z = tapped.features
        assert torch.allclose(z, model.features(**inputs), atol=1e-6)
        beta = torch.rand(B)
        with head.mix(beta):
            mixed = compiled(**inputs)
        assert torch.allclose(mixed, by_hand(head, z, beta), atol=1e-6)
    mixed.sum().backward()
    assert find_head(compiled, inputs).names == head.names


def test_compiled_training_compiles_once_for_all_coefficients(inputs):
    model = Classifier(nn.Linear(D, K)).eval()
    head = find_head(model, inputs)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            with head.mix(torch.rand(B)):
                compiled(**inputs)


def test_activation_checkpointing(inputs):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = Classifier(nn.Linear(D, K), checkpointing=checkpointing)
        head = find_head(model, inputs)
        with head.mix(torch.linspace(0.5, 1, B)):
            loss = F.cross_entropy(model(**inputs), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", ["linear", "conv", "averaged"])
def test_bf16(kind, inputs):
    model = Classifier(HEADS[kind]()).eval()
    beta = torch.rand(B)
    with torch.autocast("cpu", torch.bfloat16):
        head = find_head(model, inputs)
        with head.tap() as tapped, head.mix(beta):
            mixed = model(**inputs)
    assert mixed.dtype == torch.bfloat16
    assert torch.allclose(mixed.float(), by_hand(head, tapped.features.float(), beta), atol=3e-2)

    model, inputs = model.bfloat16(), {"pixel_values": inputs["pixel_values"].bfloat16()}
    head = find_head(model, inputs)
    with head.tap() as tapped, head.mix(beta):
        assert model(**inputs).dtype == torch.bfloat16
    assert tapped.features.dtype == torch.bfloat16


def test_model_can_be_copied_and_saved(inputs):
    model = Classifier(nn.Linear(D, K)).eval()
    keys = list(model.state_dict())
    head = find_head(model, inputs)
    assert list(model.state_dict()) == keys
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with head.mix(torch.rand(B)):
        model(**inputs)
        for other in (copied, loaded):  # their hooks are their own, and inert
            assert other(**inputs).shape == (2 * B, K)
    with find_head(copied, inputs).mix(torch.rand(B)):
        assert copied(**inputs).shape == (B, K)
        assert model(**inputs).shape == (2 * B, K)


def test_second_search_on_the_same_model(inputs):
    model = Classifier(nn.Linear(D, K))
    first, second = find_head(model, inputs), find_head(model, inputs)
    with second.mix(torch.rand(B)):
        assert model(**inputs).shape == (B, K)
    first.remove()
    with second.mix(torch.rand(B)):
        assert model(**inputs).shape == (B, K)


@pytest.mark.parametrize("kind", ["vit", "deit-distilled", "resnet"])
def test_assigned_weights_are_the_heads(kind):
    model = tiny.model(kind)
    head = find_head(model, {"pixel_values": torch.randn(2, 3, tiny.SIDE, tiny.SIDE)})
    weight, bias = torch.randn(4, head.num_features), torch.randn(4)
    objects = list(head.parameters())
    head.assign(weight, bias)
    torch.testing.assert_close(head.weight, weight)
    torch.testing.assert_close(head.bias, bias)
    assert all(a is b for a, b in zip(objects, head.parameters(), strict=True))
    with head.tap() as tapped, torch.no_grad():
        logits = model(pixel_values=torch.randn(3, 3, tiny.SIDE, tiny.SIDE)).logits
    torch.testing.assert_close(logits, tapped.features @ weight.T + bias, atol=1e-5, rtol=1e-4)


def test_averaged_layers_of_which_one_has_a_bias_take_one():
    model = tiny.model("deit-distilled")
    model.distillation_classifier = torch.nn.Linear(model.distillation_classifier.in_features, 4, bias=False)
    head = find_head(model, {"pixel_values": torch.randn(2, 3, tiny.SIDE, tiny.SIDE)})
    weight, bias = torch.randn(4, head.num_features), torch.randn(4)
    head.assign(weight, bias)
    torch.testing.assert_close(head.bias, bias)
    features = torch.randn(3, head.num_features)
    torch.testing.assert_close(head.logits(features), features @ weight.T + bias, atol=1e-5, rtol=1e-4)

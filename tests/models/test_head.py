"""The head: found by probing, tapped, mixed, run on features; on hand-made modules."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from selmix_hf.models.head import ClassifierHead, HeadError
from selmix_hf.models.head_search import find_head

K, D, B = 3, 8, 4


class Classifier(nn.Module):
    """Backbone with batch norm, and any head on the pooled features."""

    def __init__(self, head: nn.Module, dropout: float = 0.0, checkpointing: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, D), nn.BatchNorm1d(D), nn.Tanh())
        self.dropout = nn.Dropout(dropout)
        self.head = head
        self.checkpointing = checkpointing

    def features(self, pixel_values):
        if self.checkpointing and self.training:
            return checkpoint(self.backbone, pixel_values, use_reentrant=False)
        return self.backbone(pixel_values)

    def forward(self, pixel_values):
        return self.head(self.dropout(self.features(pixel_values)))


class Averaged(nn.Module):
    """Two linear layers on the same or on two different features; logits are their mean."""

    def __init__(self, bias: bool = True, in_features: int = D // 2) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D // 2, K, bias), nn.Linear(in_features, K, bias)
        self.distilled_training = False

    def forward(self, z):
        first, second = self.first(z[:, : D // 2]), self.second(z[:, -self.second.in_features :])
        return (first, second) if self.distilled_training and self.training else (first + second) / 2


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(D, K, 1)

    def forward(self, z):
        return self.fc(z[:, :, None, None]).flatten(1)


class Cosine(nn.Linear):
    def forward(self, z):
        return 10 * F.linear(F.normalize(z), F.normalize(self.weight))


class Changed(nn.Module):
    """A linear layer and something after it."""

    def __init__(self, change) -> None:
        super().__init__()
        self.fc = nn.Linear(D, K)
        self.change = change

    def forward(self, z):
        return self.change(self, z)


HEADS = {
    "linear": lambda: nn.Linear(D, K),
    "no bias": lambda: nn.Linear(D, K, bias=False),
    "conv": Conv,
    "averaged": Averaged,
    "averaged without bias": lambda: Averaged(bias=False),
    "zeros": lambda: _zeros(nn.Linear(D, K)),
    "averaged zeros": lambda: _zeros(Averaged()),
}


def _zeros(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


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


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (lambda: Cosine(D, K), "to compute W z \\+ b, found a Cosine"),
        (lambda: Changed(lambda m, z: 2 * m.fc(z)), "combined or changed"),
        (lambda: Changed(lambda m, z: m.fc(z).softmax(1)), "combined or changed"),
        (lambda: Changed(lambda m, z: m.fc(z) + m.fc(-z)), "called more than once"),
        (lambda: Changed(lambda m, z: m.fc(z.repeat(1, 4).view(-1, 4, D))[:, 0]), "every token"),
        (lambda: Changed(lambda m, z: 2 * m.fc(z) if m.training else m.fc(z)), "in train mode"),
        (lambda: Changed(lambda m, z: F.linear(z, m.fc.weight)), "not a linear layer"),
        (lambda: Changed(lambda m, z: _zeros(m.fc)(z) * 2), "in eval mode it returns"),
        (lambda: Averaged(in_features=D), "equal width"),
        (lambda: Changed(lambda m, z: m.fc(z.repeat(2, 1))), "expected logits of shape"),
    ],
)
def test_heads_that_cannot_be_mixed_are_refused(head, sentence, inputs):
    with pytest.raises(HeadError, match=f"Classifier: .*{sentence}"):
        find_head(Classifier(head()), inputs)


def test_distilled_training_is_refused(inputs):
    model = Classifier(Averaged())
    model.head.distilled_training = True
    with pytest.raises(HeadError, match="in train mode .* distillation"):
        find_head(model, inputs)


class Wrapped(nn.Module):
    """A copy of a layer that is used in its place and shows its weight, beside the layer itself."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.original, self.copy = layer, copy.deepcopy(layer)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.copy, name)

    def forward(self, z):
        return self.copy(z)


def test_the_head_is_the_layer_that_computes_and_not_its_wrapper(inputs):
    model = Classifier(Wrapped(nn.Linear(D, K)))
    assert model.head.weight is model.head.copy.weight
    head = find_head(model, inputs)
    assert head.names == ("head.copy",)
    assert {id(weight) for weight in head.parameters()} == {id(weight) for weight in model.head.copy.parameters()}


def test_a_parametrised_weight_is_its_layers_own(inputs):
    model = Classifier(nn.utils.parametrizations.weight_norm(nn.Linear(D, K)))
    assert find_head(model, inputs).names == ("head",)


def test_head_name(inputs):
    model = Classifier(Averaged())
    assert find_head(model, inputs, head_name=["head.first", "head.second"]).names == ("head.first", "head.second")
    for name, sentence in [
        ("head.first", "combined or changed"),
        ("classifier", "no such module"),
        ("backbone.2", "found a Tanh"),
        ("backbone.0", "expected one linear layer"),
    ]:
        with pytest.raises(HeadError, match=sentence):
            find_head(model, inputs, head_name=name)


def test_outputs_of_transformers(inputs):
    class Wrapped(Classifier):
        def forward(self, pixel_values):
            logits = super().forward(pixel_values)
            return self.wrap(logits)

    for wrap in (lambda x: (x.sum(), x), lambda x: type("Output", (), {"logits": x})):
        model = Wrapped(nn.Linear(D, K))
        model.wrap = wrap
        assert find_head(model, inputs).names == ("head",)


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


def test_probe_leaves_no_trace(inputs):
    model = Classifier(nn.Linear(D, K), dropout=0.5)
    model.train()
    model.backbone[1].eval()
    model.backbone[0].eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    head = find_head(model, inputs)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    head.remove()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["linear", "conv", "averaged"])
def test_input_dropout_of_a_module(kind, dropout, inputs):
    assert find_head(Classifier(HEADS[kind](), dropout), inputs).input_dropout == dropout


def test_input_dropout_of_a_function_and_not_of_earlier_layers(inputs):
    model = Classifier(Changed(lambda m, z: m.fc(F.dropout(z, 0.4, m.training))), dropout=0.25)
    assert find_head(model, inputs).input_dropout == 0.4
    model = Classifier(Changed(lambda m, z: m.fc(z.tanh())), dropout=0.25)
    assert find_head(model, inputs).input_dropout == 0.0
    model = Classifier(Changed(lambda m, z: F.dropout(m.fc(z), 0.0, m.training)))
    model.backbone.append(nn.Dropout(0.1))
    assert find_head(model, inputs).input_dropout == pytest.approx(0.1)


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

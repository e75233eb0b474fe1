"""The head is found by running the model: of hand-made modules, and of every architecture with random weights.

Of the architectures (`zoo`) the default run takes tiny transformers models and the timm families whose smallest model
is quick to build, made smaller where that is one argument. The large families, `zoo.TIMM_SLOW`, run with `-m slow`.
"""

import copy
import functools

import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
import transformers
import zoo
from torch import nn
from toy_heads import HEADS, Averaged, B, Changed, Classifier, Cosine, D, K, zeros

from selmix_hf.models.head import HeadError
from selmix_hf.models.head_search import find_head


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return {"pixel_values": torch.randn(2 * B, 5)}


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
        (lambda: Changed(lambda m, z: zeros(m.fc)(z) * 2), "in eval mode it returns"),
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


# --- every architecture ------------------------------------------------------------------------------------------


def check(name: str, model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """The model is refused by a sentence that names it if it is in `zoo.REFUSED`; else it mixes as by hand."""
    if name in zoo.REFUSED:
        with pytest.raises(HeadError, match=type(model).__name__):
            find_head(model, inputs)
        return
    head = find_head(model, inputs)
    model.train()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.eval()
    beta = torch.linspace(0.3, 0.9, zoo.B)[:, None]
    with torch.no_grad(), head.tap() as tapped, head.mix(beta[:, 0]):
        logits = model(**inputs).logits
    z = tapped.features
    assert z.shape == (2 * zoo.B, head.num_features)
    expected = head.logits(beta * z[: zoo.B] + (1 - beta) * z[zoo.B :])
    assert logits.shape == expected.shape == (zoo.B, zoo.K)
    assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    by_weight = F.linear(beta * z[: zoo.B] + (1 - beta) * z[zoo.B :], head.weight, head.bias)
    assert torch.allclose(expected, by_weight, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("model_type", "class_name"), zoo.transformers_classes())
def test_transformers(model_type, class_name, monkeypatch):
    torch.manual_seed(0)
    if model_type == "dinat":
        _without_natten(monkeypatch)
    if model_type == "shieldgemma2":
        config, inputs = zoo.shieldgemma2()
    else:
        config, inputs = zoo.tiny_config(model_type), zoo.pixels()
    if model_type == "imagegpt":
        inputs = {"input_ids": torch.randint(33, (2 * zoo.B, 16))}
    elif model_type == "siglip2":
        inputs = {
            "pixel_values": torch.randn(2 * zoo.B, 16, 3 * 8 * 8),
            "pixel_attention_mask": torch.ones(2 * zoo.B, 16, dtype=torch.long),
            "spatial_shapes": torch.full((2 * zoo.B, 2), 4),
        }
    check(class_name, getattr(transformers, class_name)(config), inputs)


def _without_natten(monkeypatch):
    """Dinat needs a package of compiled kernels for its attention; any attention does for its head."""
    from transformers.models.dinat import modeling_dinat

    monkeypatch.setattr(modeling_dinat, "requires_backends", lambda *_: None)
    monkeypatch.setattr(modeling_dinat.NeighborhoodAttention, "forward", lambda self, x, *_, **__: (self.value(x),))


def test_every_timm_family_is_listed():
    assert set(zoo.TIMM_MODELS) >= set(timm.list_modules())


def timm_families():
    return [pytest.param(x, marks=pytest.mark.slow if x in zoo.TIMM_SLOW else ()) for x in timm.list_modules()]


@pytest.mark.parametrize("family", timm_families())
def test_timm(family):
    torch.manual_seed(0)
    architecture, arguments, *pixels = zoo.TIMM_MODELS.get(family) or (zoo.smallest(family), {})
    size = pixels[0] if pixels else zoo.PIXELS
    model = zoo.timm_model(architecture, size, **arguments)
    check(family, model, zoo.pixels(size))


@functools.cache
def _distilled(distilled: bool):
    model = zoo.timm_model("deit_tiny_distilled_patch16_224", zoo.PIXELS, depth=1)
    model.timm_model.set_distilled_training(distilled)
    return model


def test_timm_distilled_training_is_refused():
    inputs = zoo.pixels()
    head = find_head(_distilled(False), inputs)
    assert (head.feature_step, head.bias_step) == (0.25, 0.5)
    with pytest.raises(HeadError, match="deit_tiny_distilled_patch16_224.*train mode"):
        find_head(_distilled(True), inputs)


@pytest.mark.parametrize(("architecture", "drop_rate"), [("test_vit", 0.1), ("lcnet_035", 0.2), ("test_nfnet", 0.0)])
def test_timm_dropout(architecture, drop_rate):
    """Functional in lcnet and modules in the others; TimmWrapper passes model_args on."""
    model = zoo.timm_model(architecture, zoo.PIXELS, drop_rate=drop_rate)
    head = find_head(model, zoo.pixels())
    assert head.input_dropout == drop_rate


def test_weights_that_are_not_finite_are_named():
    model = tiny.model("vit")
    model.vit.layernorm.weight.data[0] = float("nan")
    with pytest.raises(HeadError, match=r"expected finite weights, .* in 1 tensors, the first 'vit.layernorm.weight'"):
        find_head(model, {"pixel_values": torch.zeros(2, 3, tiny.SIDE, tiny.SIDE)})
    model = tiny.model("vit")
    with pytest.raises(HeadError, match="expected finite logits, found NaN or infinity though all weights are finite"):
        find_head(model, {"pixel_values": torch.full((2, 3, tiny.SIDE, tiny.SIDE), float("inf"))})


def test_the_cause_is_named_where_a_model_cannot_be_run():
    with pytest.raises(HeadError, match=r"Its weights are bfloat16, its inputs are not: call model.float\(\)"):
        find_head(tiny.model("resnet").to(torch.bfloat16), {"pixel_values": torch.zeros(2, 3, tiny.SIDE, tiny.SIDE)})
    with pytest.raises(HeadError, match=r"no column has images: cast_column\(column, datasets.Image\(\)\)"):
        find_head(tiny.model("vit"), {"number": torch.zeros(2)})
    with pytest.raises(HeadError, match="It takes images of 1 channels, found 3"):
        find_head(tiny.model("vit", num_channels=1), {"pixel_values": torch.zeros(2, 3, tiny.SIDE, tiny.SIDE)})

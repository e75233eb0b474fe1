"""Stored features take the place of raw inputs in front of the head."""

import pytest
import tiny
import torch
from passes import COLLATOR, DATA, PIXELS, look

from selmix_hf import find_head
from selmix_hf.features.frozen import features_as_inputs, head_alone
from selmix_hf.features.stored import FEATURES


def test_features_as_inputs():
    at = look()
    features, own_forward = at.features(DATA, COLLATOR), at.model.forward
    with torch.no_grad():
        expected = at.model(pixel_values=PIXELS).logits
        with features_as_inputs(at.model, at.head):
            assert torch.allclose(at.model(**{FEATURES: features})["logits"], expected, atol=1e-5)
            assert torch.equal(at.model(pixel_values=PIXELS).logits, expected)
            with at.head.mix(torch.full((7,), 0.75)):
                mixed = at.model(**{FEATURES: features[:14]})["logits"]
            blend = 0.75 * features[:7] + 0.25 * features[7:14]
            assert torch.allclose(mixed, at.head.logits(blend), atol=1e-6)
    assert "forward" not in vars(at.model) and at.model.forward == own_forward
    with pytest.raises(RuntimeError), features_as_inputs(at.model, at.head):
        raise RuntimeError
    assert "forward" not in vars(at.model)


def test_the_head_alone_requires_a_gradient():
    at = look()
    at.model.convnext.layernorm.weight.requires_grad_(False)
    of_head = {id(parameter) for parameter in at.head.parameters()}
    before = [parameter.requires_grad for parameter in at.model.parameters()]
    with head_alone(at.model, at.head):
        assert {id(parameter) for parameter in at.model.parameters() if parameter.requires_grad} == of_head
        assert at.model(**{FEATURES: at.features(DATA, COLLATOR)})["logits"].shape == (15, 4)
    assert [parameter.requires_grad for parameter in at.model.parameters()] == before and not all(before)


def test_dropout_in_front_of_the_head_acts_in_train_mode_only():
    model = tiny.model("test_convnext", drop_rate=0.5)
    head = find_head(model, {"pixel_values": torch.zeros(2, 3, 32, 32)})
    assert head.input_dropout == 0.5
    features = torch.ones(64, head.num_features)
    with features_as_inputs(model, head), torch.no_grad():
        logits = {mode: model.train(mode)(**{FEATURES: features})["logits"] for mode in (False, True)}
    assert torch.allclose(logits[False], head.logits(features), atol=1e-6)
    assert float(logits[False].std(0).max()) < 1e-6 < float(logits[True].std(0).min())


def test_stored_features_enter_a_bfloat16_head_in_its_dtype():
    at = look("vit")
    at.model.to(torch.bfloat16)
    features = torch.randn(3, at.head.num_features)
    with features_as_inputs(at.model, at.head), torch.no_grad():
        logits = at.model(**{FEATURES: features})["logits"]
    assert logits.dtype == torch.bfloat16
    assert torch.allclose(logits.float(), (features @ at.head.weight.float().T + at.head.bias.float()), atol=0.05)


def test_a_bfloat16_model_trains_its_head_in_float32(tmp_path):
    model = tiny.model("vit").to(torch.bfloat16)
    before = tiny.weights(model)
    run = tiny.trainer(tmp_path, model, freeze_backbone=True, **tiny.BARE)
    run.train()
    assert 0 < run.evaluate(tiny.images((5, 5, 5, 5), seed=2))["eval_loss"] < 10
    after = tiny.weights(model)
    assert {value.dtype for value in after.values()} == {torch.float32}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name].float())}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert all(0 < loss < 10 for loss in tiny.losses(run))

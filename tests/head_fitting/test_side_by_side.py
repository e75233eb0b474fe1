"""Heads trained at once are those trained one by one."""

import pytest
import torch

from selmix_hf.head_fitting.retraining import class_balanced_weight, retrain_head
from selmix_hf.head_fitting.side_by_side import fit_side_by_side
from selmix_hf.method.losses import LogitAdjustedLoss

OPTIONS = {"steps": 40, "batch_size": 16, "momentum": 0.9, "weight_decay": 1e-2, "seed": 3}


def samples():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 3)
    return torch.randn(55, 6, generator=generator) + labels[:, None], labels


@pytest.mark.parametrize("loss", ["logit_adjusted", "class_balanced"])
@pytest.mark.parametrize("fit_bias", [True, False])
def test_each_is_the_head_that_is_retrained_alone(loss, fit_bias):
    features, labels = samples()
    rates = (0.01, 0.1, 1.0)
    fitted = fit_side_by_side(features, labels, 3, rates, loss, fit_bias=fit_bias, **OPTIONS)
    own = {"loss": LogitAdjustedLoss([40, 12, 3])}
    if loss == "class_balanced":
        own = {"sample_weight": class_balanced_weight(labels)}
    for rate, head in zip(rates, fitted, strict=True):
        weight, bias = retrain_head(features, labels, 3, learning_rate=rate, fit_bias=fit_bias, **own, **OPTIONS)
        assert (head.loss, head.learning_rate) == (loss, rate)
        torch.testing.assert_close(head.weight, weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(head.bias, bias, atol=1e-5, rtol=1e-4)
        assert float(weight.abs().max()) > 0.1


def test_half_precision_features_serve_as_they_are():
    features, labels = samples()
    half = features.half()
    expected = fit_side_by_side(half.float(), labels, 3, (0.1,), **OPTIONS)
    (found,) = fit_side_by_side(half, labels, 3, (0.1,), **OPTIONS)
    assert torch.equal(found.weight, expected[0].weight)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss must be one of logit_adjusted, class_balanced, found 'focal'"):
        fit_side_by_side(*samples(), 3, (0.1,), "focal")


def test_a_class_without_samples_is_never_predicted():
    features, labels = samples()
    for loss in ("logit_adjusted", "class_balanced"):
        (head,) = fit_side_by_side(features, labels, 4, (0.1,), loss, **OPTIONS)
        assert not bool(((features @ head.weight.T + head.bias).argmax(1) == 3).any())

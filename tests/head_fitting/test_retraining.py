"""New and rescaled heads on stored features, against steps worked out by hand."""

import pytest
import torch

from selmix_hf.head_fitting.retraining import class_balanced_weight, learn_weight_scale, retrain_head, tau_normalized
from selmix_hf.method.losses import LogitAdjustedLoss


def test_one_step_of_a_head_by_hand():
    features, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    weight, bias = retrain_head(features, labels, 3, steps=1, batch_size=4, learning_rate=0.3, weight_decay=0.0)
    residual = torch.tensor([-1.0, 2.0, -1.0]) / 3  # e_1 - softmax(0)
    torch.testing.assert_close(weight, 0.3 * residual[:, None] * features)
    torch.testing.assert_close(bias, 0.3 * residual)


def test_samples_are_drawn_by_their_weight():
    seen = []

    def loss(logits, labels):
        seen.append(labels)
        return logits.sum() * 0

    labels = torch.tensor([0] * 90 + [1] * 10 + [2] * 5)
    weight = torch.where(labels == 2, 0.0, 1 / torch.bincount(labels)[labels])
    retrain_head(torch.zeros(105, 2), labels, 3, loss, steps=50, batch_size=100, sample_weight=weight)
    counts = torch.bincount(torch.cat(seen), minlength=3)
    assert counts[2] == 0 and abs(counts[0] - 2500) < 4 * 35.4  # standard deviations of a fair coin
    again = list(seen)
    seen.clear()
    retrain_head(torch.zeros(105, 2), labels, 3, loss, steps=50, batch_size=100, sample_weight=weight)
    assert all(torch.equal(a, b) for a, b in zip(again, seen, strict=True))


def test_a_head_learns_what_can_be_told_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 200 + [1] * 20)
    features = 4 * torch.eye(2)[labels] + torch.randn(220, 2, generator=generator)
    weight, bias = retrain_head(features, labels, 2, LogitAdjustedLoss([200, 20]), steps=300)
    recall = [float(((features @ weight.T + bias).argmax(1) == labels)[labels == k].float().mean()) for k in (0, 1)]
    assert min(recall) > 0.95


def test_tau_normalisation_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.25]])
    torch.testing.assert_close(tau_normalized(weight), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(tau_normalized(weight, 0.5), weight / torch.tensor([[5**0.5], [0.5]]))
    assert torch.equal(tau_normalized(weight, 0), weight)
    with pytest.raises(ValueError, match="a row of zeros has no direction: found 1"):
        tau_normalized(torch.zeros(1, 2))


def test_class_balanced_weight_by_hand():
    assert class_balanced_weight(torch.tensor([0, 0, 1, 0, 0])).tolist() == [0.25, 0.25, 1, 0.25, 0.25]


def test_one_step_of_weight_scaling_by_hand():
    head = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, -0.5])
    features, labels = torch.tensor([[1.0, 1.0]]), torch.tensor([0])
    logits = torch.tensor([1.5, 1.5])  # at f = 1
    weight, bias = learn_weight_scale(features, labels, head, steps=1, batch_size=2, learning_rate=0.1, weight_decay=0)
    scale = 1 - 0.1 * (torch.tensor([0.5, 0.5]) - torch.tensor([1.0, 0.0])) * logits
    torch.testing.assert_close(weight, head[0] * scale[:, None])
    torch.testing.assert_close(bias, head[1] * scale)


def test_weight_scaling_helps_classes_with_short_rows():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 300 + [1] * 30)
    features = 2 * torch.eye(2)[labels] + 0.5 * torch.randn(330, 2, generator=generator)
    head = torch.diag(torch.tensor([2.0, 0.2])), torch.zeros(2)
    weight, bias = learn_weight_scale(features, labels, head, steps=300)
    before, after = (
        float(((features @ w.T).argmax(1) == labels)[labels == 1].float().mean()) for w in (head[0], weight)
    )
    assert before < 0.9 < after
    assert weight[0, 1] == weight[1, 0] == 0 and bias.tolist() == [0, 0]

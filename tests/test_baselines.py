"""What else one would do with the same checkpoint, against numbers worked out by hand and by brute force."""

import itertools

import pytest
import torch

from selmix_hf.baselines.class_bias import tune_class_bias
from selmix_hf.baselines.head import retrain_head
from selmix_hf.confusion import confusion_counts
from selmix_hf.losses import LogitAdjustedLoss
from selmix_hf.objectives import get_objective


def score(logits, labels, objective):
    return get_objective(objective).score(confusion_counts(labels, logits, logits.shape[1]))


@pytest.mark.parametrize("objective", ["mean_recall", "min_recall", "h_mean"])
def test_two_classes_get_the_best_threshold_of_all(objective):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 30 + [1] * 10)
    logits = torch.randn(40, 2, generator=generator) + torch.tensor([1.0, 0.0]) + torch.eye(2)[labels]
    margins = (logits[:, 0] - logits[:, 1]).sort().values
    cuts = torch.cat([margins[:1] - 1, (margins[1:] + margins[:-1]) / 2, margins[-1:] + 1])
    best = max(score(logits + torch.stack([torch.zeros(()), cut]), labels, objective) for cut in cuts)
    bias = tune_class_bias(logits, labels, get_objective(objective), num_candidates=41)
    assert score(logits + bias, labels, objective) == pytest.approx(best, abs=1e-12)
    assert score(logits, labels, objective) < best


def test_a_bias_of_three_classes_is_near_the_best_of_a_grid():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(40)
    logits = 1.5 * torch.eye(3)[labels] + torch.randn(120, 3, generator=generator) + torch.tensor([2.0, 0.0, -1.0])
    objective = get_objective("mean_recall")
    grid = torch.linspace(-4, 4, 33)
    best = max(
        score(logits + torch.tensor([0.0, a, b]), labels, "mean_recall") for a, b in itertools.product(grid, grid)
    )
    found = score(logits + tune_class_bias(logits, labels, objective), labels, "mean_recall")
    assert found >= best - 1 / 120
    assert found > score(logits, labels, "mean_recall") + 0.1


def test_a_bias_prefers_what_satisfies_the_constraint():
    labels = torch.arange(2).repeat_interleave(20)
    logits = torch.zeros(40, 2)
    logits[:, 0] = torch.linspace(3, 0.1, 40)  # all are taken for class 0
    objective = get_objective("mean_recall", {"coverage": 0.95})
    counts = confusion_counts(labels, logits + tune_class_bias(logits, labels, objective), 2)
    assert objective.violation(counts / counts.sum()) == 0
    assert counts.tolist() == [[20, 0], [0, 20]]


def test_a_bias_wants_every_class():
    with pytest.raises(ValueError, match="no sample of 1 of 2 classes"):
        tune_class_bias(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), get_objective("mean_recall"))
    with pytest.raises(ValueError, match="expected logits N x K and labels N"):
        tune_class_bias(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), get_objective("mean_recall"))


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

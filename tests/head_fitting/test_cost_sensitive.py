"""The cost-sensitive reduction: class weights that follow an objective, against gains worked out by hand."""

import math

import pytest
import torch

from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss, cost_sensitive_head
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.method.objective_names import get_objective


def score(logits, labels, objective):
    return get_objective(objective).score(confusion_counts(labels, logits, logits.shape[1]))


def test_mean_recall_makes_the_logit_adjusted_loss():
    counts, train = torch.tensor([[6, 4], [3, 7]]), [90, 10]
    loss = CostSensitiveLoss(get_objective("mean_recall"), train)
    loss.update(counts)
    # hits of class k are worth 1 / (K pi_k) with pi its share in training
    torch.testing.assert_close(loss.gain, torch.diag(torch.tensor([1 / (2 * 0.9), 1 / (2 * 0.1)])).double())
    logits, labels = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(loss(logits, labels), LogitAdjustedLoss(train)(logits, labels))
    torch.testing.assert_close(loss({"logits": logits}, labels, num_items_in_batch=10), loss(logits, labels) / 2)


def test_exponentiated_gradient_by_hand():
    counts = torch.tensor([[8, 2], [5, 5]])
    loss = CostSensitiveLoss(get_objective("min_recall"), [50, 50], rate=2.0)
    smoothed = torch.tensor([8.5 / 11, 5.5 / 11])
    for times in (1, 2):
        loss.update(counts)
        expected = torch.softmax(-2.0 * times * smoothed, 0).double()
        torch.testing.assert_close(loss.multipliers["min_recall"], expected)
    torch.testing.assert_close(loss.gain, torch.diag(expected / 0.5))


def test_multipliers_of_the_worst_share_are_capped():
    """8 : 1 : 1 with 1.5 of three classes at most: two thirds, and the rest in halves."""
    recall = torch.tensor([0.5, 8.5, 8.5]) / 11
    loss = CostSensitiveLoss(
        get_objective("worst_share_recall", worst_share=0.5),
        [50] * 3,
        rate=float(math.log(8) / (recall[1] - recall[0])),
    )
    loss.update(torch.tensor([[0, 5, 5], [1, 8, 1], [1, 1, 8]]))
    assert loss.multipliers["worst_share_recall"].tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_h_mean_by_hand():
    counts = torch.tensor([[80, 20], [60, 40]])
    loss = CostSensitiveLoss(get_objective("h_mean"), [30, 10])
    loss.update(counts)
    recall = torch.tensor([80.5 / 101, 40.5 / 101]).double()
    slope = 2 / (1 / recall).sum() ** 2 / recall**2  # d H / d recall_k
    torch.testing.assert_close(loss.gain, torch.diag(slope / torch.tensor([0.75, 0.25]).double()))


def test_the_minimiser_predicts_what_gains_most():
    """Of random posteriors, with a constraint, whose gains are not diagonal."""
    objective = get_objective("mean_recall", {"coverage": 0.95})
    loss = CostSensitiveLoss(objective, [50, 30, 20])
    counts = torch.tensor([[70, 25, 5], [30, 60, 10], [40, 40, 20]])  # class 2 is covered too little
    for _ in range(3):
        loss.update(counts)
    assert (loss.gain >= 0).all() and loss.gain[0, 2] > 0  # even a wrong prediction of class 2 is worth something
    posterior = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).double()
    posterior /= posterior.sum(1, keepdim=True)
    logits = torch.zeros(20, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-9)

    def expected_loss():
        optimizer.zero_grad()
        value = sum(posterior[n, y] * loss(logits[n : n + 1], torch.tensor([y])) for n in range(20) for y in range(3))
        value.backward()
        return value

    optimizer.step(expected_loss)
    best = posterior @ loss.gain
    assert torch.equal(logits.argmax(1), best.argmax(1)) and not torch.equal(best.argmax(1), posterior.argmax(1))
    torch.testing.assert_close(logits.softmax(1).double(), best / best.sum(1, keepdim=True), atol=1e-3, rtol=0)


def test_a_cost_sensitive_head_lifts_the_worst_class():
    generator = torch.Generator().manual_seed(0)

    def sample(sizes):
        labels = torch.arange(3).repeat_interleave(torch.tensor(sizes))
        return 1.5 * torch.eye(3)[labels] + torch.randn(len(labels), 3, generator=generator), labels

    train, validation, test = sample([400, 100, 20]), sample([100] * 3), sample([500] * 3)
    start = retrain_head(*train, 3, steps=300)
    head = cost_sensitive_head(
        *train, *validation, get_objective("min_recall"), start=start, steps=300, learning_rate=0.05
    )
    worst = [score(test[0] @ w.T + b, test[1], "min_recall") for w, b in (start, head)]
    assert worst[0] < 0.3 and worst[1] > 0.5
    with pytest.raises(ValueError, match="one positive number a class"):
        CostSensitiveLoss(get_objective("min_recall"), [3, 0])

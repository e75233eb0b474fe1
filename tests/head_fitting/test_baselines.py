"""What else one would do with the same checkpoint, against numbers worked out by hand and by brute force."""

import itertools
import math

import pytest
import tiny
import torch

from selmix_hf.head_fitting.class_bias import _Search, logit_adjustment, tune_class_bias
from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss, cost_sensitive_head
from selmix_hf.head_fitting.retraining import class_balanced_weight, learn_weight_scale, retrain_head, tau_normalized
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.method.objective_names import get_objective
from selmix_hf.training.cost_sensitive_callback import CostSensitiveCallback


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


# --- rules -------------------------------------------------------------------------------------------------------


def test_post_hoc_logit_adjustment_by_hand():
    torch.testing.assert_close(logit_adjustment([3, 1]), torch.tensor([4 / 3, 4.0]).log())
    torch.testing.assert_close(logit_adjustment([3, 1], tau=2), 2 * torch.tensor([4 / 3, 4.0]).log())
    assert logit_adjustment([3, 1], tau=0).tolist() == [0, 0]
    with pytest.raises(ValueError, match="one positive number a class, found \\[3.0, 0.0\\]"):
        logit_adjustment([3, 0])


def test_post_hoc_adjustment_undoes_the_prior():
    """Bayes: p(x|y) orders the classes as p(y|x) / pi_y does."""
    prior, likelihood = torch.tensor([0.7, 0.2, 0.1]), torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    posterior = (likelihood * prior) / (likelihood * prior).sum(1, keepdim=True)
    adjusted = posterior.log() + logit_adjustment([70, 20, 10])
    assert torch.equal(adjusted.argmax(1), likelihood.argmax(1))


def test_tau_normalisation_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.25]])
    torch.testing.assert_close(tau_normalized(weight), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(tau_normalized(weight, 0.5), weight / torch.tensor([[5**0.5], [0.5]]))
    assert torch.equal(tau_normalized(weight, 0), weight)
    with pytest.raises(ValueError, match="a row of zeros has no direction: found 1"):
        tau_normalized(torch.zeros(1, 2))


# --- heads -------------------------------------------------------------------------------------------------------


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


# --- the cost-sensitive reduction --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("objective", ["min_recall", "h_mean"])
@pytest.mark.parametrize("size", [21, 64, 127])
def test_a_bias_scores_what_the_search_saw(objective, size):
    """As many candidates as samples, so that thresholds could lie on them; never below the start."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(size) % 3
        logits = torch.eye(3)[labels] + torch.randn(size, 3, generator=generator)
        search = _Search(logits.double(), labels, get_objective(objective))
        search.climb()
        search.coordinates(20, size)
        bias = tune_class_bias(logits, labels, get_objective(objective), num_candidates=size)
        assert score(logits + bias, labels, objective) == search.best[0] >= score(logits, labels, objective)


def test_where_the_objective_is_not_a_number_the_search_does_not_stay():
    """Macro precision of logits that never give class 2 is 0 / 0."""
    logits = torch.tensor([[3.0, 1, 0], [1, 3, 0], [1, 3, 2], [3, 1, 2]])
    labels = torch.tensor([0, 1, 2, 2])
    objective = get_objective(lambda confusion: (confusion.diagonal() / confusion.sum(0)).mean())
    assert math.isnan(objective.score(confusion_counts(labels, logits, 3)))
    bias = tune_class_bias(logits, labels, objective)
    assert (logits + bias).argmax(1).tolist() == labels.tolist()


def test_many_classes_climb_alone():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30).repeat_interleave(20)
    logits = 2 * torch.eye(30)[labels] + torch.randn(600, 30, generator=generator) + torch.linspace(3, 0, 30)
    objective = get_objective("mean_recall")
    bias = tune_class_bias(logits, labels, objective)
    assert torch.equal(bias, tune_class_bias(logits, labels, objective, num_passes=0))
    assert score(logits + bias, labels, "mean_recall") > score(logits, labels, "mean_recall") + 0.1


def test_a_cost_sensitive_run_does_not_resume(tmp_path):
    def make(**options):
        loss = CostSensitiveLoss(get_objective("min_recall"), tiny.TRAIN_COUNTS)
        callbacks = [CostSensitiveCallback(loss)]
        given = {"sampling": "natural", "compute_loss_func": loss, "callbacks": callbacks, **tiny.BARE}
        return loss, tiny.trainer(tmp_path, **given | {"save_strategy": "epoch"})

    loss, trainer = make()
    trainer.train()
    assert not torch.equal(loss.multipliers["min_recall"], torch.full((4,), 0.25).double())  # it looked
    with pytest.raises(ValueError, match="does not resume: its multipliers are in no checkpoint"):
        make()[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

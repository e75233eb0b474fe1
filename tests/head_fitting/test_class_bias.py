"""A bias a class, by rule and by search, against numbers worked out by hand and by brute force."""

import itertools
import math

import pytest
import torch

from selmix_hf.head_fitting.class_bias import _Search, logit_adjustment, tune_class_bias
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.objective_names import get_objective


def score(logits, labels, objective):
    return get_objective(objective).score(confusion_counts(labels, logits, logits.shape[1]))


# --- by rule -----------------------------------------------------------------------------------------------------


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


# --- by search ---------------------------------------------------------------------------------------------------


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

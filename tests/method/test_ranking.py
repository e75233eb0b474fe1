"""Which evaluation is better: ties, matrices without a score, objectives that have none somewhere."""

import itertools
import math

import pytest
import torch
from hits import BETTER_MEAN, BETTER_REST, FEWER_AT_ZERO, START, counts_of, macro_precision

from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.ranking import ranking, where_it_has_no_score


@pytest.mark.parametrize("name", ["min_recall", "g_mean", "h_mean"])
def test_where_all_scores_are_zero_the_ranking_goes_on(name):
    objective = get_objective(name)
    ordered = [START, BETTER_MEAN, FEWER_AT_ZERO, BETTER_REST]
    assert {objective.score(counts_of(hits)) for hits in ordered} == {0.0}
    assert sorted({*ordered}, key=lambda hits: ranking(objective, counts_of(hits))) == ordered


def test_of_equal_scores_fewer_at_zero_then_recalls_ascending_then_their_mean():
    """The order that the ascending recalls alone give, for every two of 256 kinds of hits."""
    objective, keys, found = get_objective("min_recall"), [], []
    for hits in itertools.product((0, 3, 5, 10), repeat=4):
        recalls = sorted(hit / 10 for hit in hits)
        keys.append((min(recalls), -recalls.count(0), recalls, sum(recalls) / 4))
        found.append(ranking(objective, counts_of(hits)))
    for (key, one), (other_key, other) in itertools.combinations(zip(keys, found, strict=True), 2):
        assert (one > other, one == other) == (key > other_key, key == other_key)


def test_the_score_comes_before_the_recalls_and_what_is_feasible_before_the_rest():
    objective = get_objective("mean_recall", {"coverage": 0.9})
    feasible = torch.tensor([[6, 4, 0, 0], [4, 6, 0, 0], [0, 0, 6, 4], [0, 0, 4, 6]])
    infeasible = torch.tensor([[10, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 3, 7]])
    assert ranking(objective, feasible) > ranking(objective, infeasible)
    mean = get_objective("mean_recall")
    assert ranking(mean, infeasible) > ranking(mean, feasible)
    assert ranking(mean, counts_of((0, 10, 10, 10))) > ranking(mean, counts_of((5, 5, 5, 5)))


def test_rounding_errors_are_no_difference():
    """A recall of 3 in 10 comes out as 0.3 or a last digit more, by where the misses went."""
    objective = get_objective("min_recall")
    matrices = [torch.tensor([[3, miss, 7 - miss], [0, 10, 0], [0, 0, 10]]) for miss in range(8)]
    assert {objective.score(counts) for counts in matrices} == {0.3, 0.3 + 2**-54}
    assert {ranking(objective, counts) for counts in matrices} == {(0.3, 0.3, 1.0, 1.0)}


def test_what_has_no_score_ranks_last():
    objective = get_objective(macro_precision)
    nothing, little = (
        torch.tensor([[9, 1, 0], [0, 10, 0], [0, 10, 0]]),
        torch.tensor([[0, 9, 1], [9, 0, 1], [9, 0, 1]]),
    )
    assert math.isnan(objective.score(nothing)) and objective.score(little) < 0.2
    assert ranking(objective, nothing) < ranking(objective, little)


def matthews(confusion):
    true_K, predicted_K = confusion.sum(1), confusion.sum(0)
    spread = (1 - true_K.square().sum()) * (1 - predicted_K.square().sum())
    return (confusion.trace() - (true_K * predicted_K).sum()) / spread.sqrt()


def inverse_hits(confusion):
    return (confusion.diagonal() / confusion.diagonal()).mean()


@pytest.mark.parametrize(
    ("objective", "where"),
    [
        (macro_precision, "a class is never predicted"),
        (matthews, "every sample is taken for one class"),
        (inverse_hits, "a class has no hit"),
        (lambda confusion: (1 / confusion.sum(0)).sum(), "a class is never predicted"),  # plus infinity
        (lambda confusion: (confusion.diagonal() / (confusion.sum(0) + 1e-9)).mean(), None),  # as advised
        (lambda confusion: (confusion.diagonal() / confusion.sum(1)).log().mean(), None),  # -inf is below all others
        *((name, None) for name in ("mean_recall", "g_mean", "h_mean", "macro_f1", "min_recall")),
    ],
)
def test_where_an_objective_has_no_score(objective, where):
    found = where_it_has_no_score(get_objective(objective), 4)
    assert (found is None) if where is None else (f" where {where}. Training goes on" in found)

"""Metrics, constraints, multipliers and selection scores against hand-worked numbers."""

import math

import pytest
import tiny
import torch

from selmix_hf.method import objective_names, objectives
from selmix_hf.method.confusion import confusion_matrix, smooth_confusion
from selmix_hf.method.gain import metric_gradient
from selmix_hf.method.minimum import MinimumMetric
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.objectives import Constraint, Objective, default_target_share
from selmix_hf.reports.metrics import refresh_report
from selmix_hf.training.health import HealthWatch
from selmix_hf.training.steering import Refresh

# recalls 1, 1/2, 1/4; each class 1/3 of the samples; coverages 7/12, 3/12, 2/12 (see COLUMN_SUMS)
COUNTS = torch.tensor([[8, 0, 0], [2, 4, 2], [4, 2, 2]])
CONFUSION = COUNTS.double() / 24
COLUMN_SUMS = [14 / 24, 6 / 24, 4 / 24]
FREQUENT_FIRST = [100, 50, 5]


def value(name, confusion=CONFUSION, **options):
    return float(get_objective(name, **options).value(confusion))


# --- metrics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_recall", (1 + 1 / 2 + 1 / 4) / 3),
        ("g_mean", (1 / 8) ** (1 / 3)),
        ("h_mean", 3 / (1 + 2 + 4)),
        ("macro_f1", (2 * 8 / (8 + 14) + 2 * 4 / (8 + 6) + 2 * 2 / (8 + 4)) / 3),
        ("min_recall", 1 / 4),
        ("worst_share_recall", 1 / 4),  # a tenth of three classes is one
        ("min_head_tail_recall", 1 / 4),
    ],
)
def test_metric_values(name, expected):
    assert value(name, class_counts=FREQUENT_FIRST) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("share", "expected"), [(1 / 3, 1 / 4), (0.5, (1 / 4 + 0.5 * 1 / 2) / 1.5), (2 / 3, 3 / 8), (1, 1.75 / 3)]
)
def test_the_worst_share_of_three(share, expected):
    assert value("worst_share_recall", worst_share=share) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mean_recall", "g_mean", "h_mean", "min_recall", "worst_share_recall"])
def test_recall_metrics_do_not_depend_on_the_prior(name):
    tilted = confusion_matrix(COUNTS, [0.7, 0.2, 0.1])
    assert value(name, tilted) == pytest.approx(value(name), abs=1e-14)


@pytest.mark.parametrize("name", ["g_mean", "h_mean", "min_recall", "worst_share_recall"])
def test_a_class_without_recall_gives_zero(name):
    assert value(name, torch.tensor([[3.0, 0, 0], [1, 0, 2], [0, 0, 3]]).double() / 9) == 0


@pytest.mark.parametrize("name", list(objective_names.OBJECTIVES))
def test_a_perfect_classifier_scores_one(name):
    assert value(name, torch.eye(7).double() / 7, class_counts=range(7, 0, -1)) == pytest.approx(1)


def test_coverages_by_hand():
    assert objectives.coverages(CONFUSION).tolist() == pytest.approx(COLUMN_SUMS)


# --- multipliers of a minimum ------------------------------------------------------------------------------------


def test_memoryless_multipliers_are_a_softmax():
    objective = get_objective("min_recall", min_rate=50.0, min_memory=0.0)
    counts = torch.tensor([[90, 5, 5], [30, 60, 10], [50, 45, 5]])
    smoothed = torch.tensor([90.5, 60.5, 5.5]).double() / 101
    expected = torch.softmax(-50 * smoothed, 0)  # 100 ln 2 > 50: no cap
    got = objective.update_multipliers(objective.initial_multipliers(3), counts)["min_recall"]
    assert torch.allclose(got, expected, rtol=1e-12)
    again = objective.update_multipliers({"min_recall": torch.tensor([0.9, 0.05, 0.05])}, counts)["min_recall"]
    assert torch.equal(got, again)


def test_the_rate_is_capped_so_that_one_image_at_most_doubles_a_multiplier():
    counts = torch.tensor([[15, 5, 0], [4, 12, 4], [2, 6, 12]])
    objective = get_objective("min_recall", min_rate=50.0)
    got = objective.update_multipliers({}, counts)["min_recall"]
    recall = (counts.diagonal().double() + 0.5) / 21
    assert torch.allclose(got, torch.softmax(-20 * math.log(2) * recall, 0), rtol=1e-12)
    one_more = counts.clone()
    one_more[1, 1], one_more[1, 0] = 13, 3
    after = objective.update_multipliers({}, one_more)["min_recall"]
    change = (got[1] / got[0]) / (after[1] / after[0])
    assert 1.5 < change <= 2
    # without a cap the same image would multiply it by exp(50 / 21)
    below = get_objective("min_recall", min_rate=2.0).update_multipliers({}, counts)["min_recall"]
    assert torch.allclose(below, torch.softmax(-2 * recall, 0), rtol=1e-12)


def test_memory_accumulates_to_the_memoryless_form():
    metric = MinimumMetric("min_recall", objectives.recalls, rate=4.0, memory=0.5)
    class_counts, multiplier = COUNTS.sum(1), metric.initial_multiplier(3)
    assert multiplier.tolist() == pytest.approx([1 / 3] * 3)
    ratios = []
    for _ in range(40):
        multiplier = metric.update_multiplier(multiplier, CONFUSION, class_counts)
        assert float(multiplier.sum()) == pytest.approx(1)
        ratios.append(float((multiplier[2] / multiplier[0]).log()))
    # recalls 1/4 and 1 differ by 3/4: 4 * 3/4 * (1/2, 3/4, 7/8, ... -> 1)
    assert ratios[:3] == pytest.approx([1.5, 2.25, 2.625])
    assert ratios[-1] == pytest.approx(3.0)
    # what was bad stays remembered: recalls all equal, the multiplier only halves its log
    even = metric.update_multiplier(multiplier, torch.eye(3).double() / 3, class_counts)
    assert float((even[2] / even[0]).log()) == pytest.approx(1.5)


def test_an_underflown_multiplier_comes_back():
    metric = MinimumMetric("min_recall", objectives.recalls, rate=4.0, memory=0.5)
    multiplier = torch.tensor([0.0, 0.0, 1.0])
    for _ in range(60):
        multiplier = metric.update_multiplier(multiplier, CONFUSION, COUNTS.sum(1))
    assert torch.allclose(multiplier, torch.softmax(-4 * torch.tensor([1, 0.5, 0.25]).double(), 0), rtol=1e-6)


def test_lagrangian_of_a_minimum_weighs_the_recalls():
    objective = get_objective("min_recall")
    weighted = objective.lagrangian(CONFUSION, {"min_recall": torch.tensor([0.2, 0.3, 0.5])})
    assert float(weighted) == pytest.approx(0.2 * 1 + 0.3 / 2 + 0.5 / 4)
    assert float(objective.lagrangian(CONFUSION)) == pytest.approx(1.75 / 3)
    grouped = get_objective("min_head_tail_recall", class_counts=FREQUENT_FIRST)
    weighted = grouped.lagrangian(CONFUSION, {"min_head_tail_recall": torch.tensor([0.25, 0.75])})
    assert float(weighted) == pytest.approx(0.25 * 0.75 + 0.75 * 0.25)


# --- constraints -------------------------------------------------------------------------------------------------


def test_slacks_and_violation_by_hand():
    objective = get_objective("mean_recall", {"coverage": 0.8})
    assert objective.constraints[0].slack(CONFUSION).tolist() == pytest.approx([1.75 - 0.8, 0.75 - 0.8, 0.5 - 0.8])
    assert objective.violation(CONFUSION) == pytest.approx(0.3)
    assert objective.violation(torch.eye(3).double() / 3) == 0
    assert get_objective("mean_recall").violation(CONFUSION) == 0
    grouped = get_objective("mean_recall", {"head_tail_coverage": 0.8}, class_counts=FREQUENT_FIRST)
    assert grouped.constraints[0].slack(CONFUSION).tolist() == pytest.approx([(1.75 + 0.75) / 2 - 0.8, 0.5 - 0.8])
    both = get_objective(
        "mean_recall", {"coverage": 0.8, "head_tail_coverage": 1.0}, class_counts=FREQUENT_FIRST, tail_share=0.5
    )
    assert both.violation(CONFUSION) == pytest.approx(1 - (0.75 + 0.5) / 2)
    assert both.name == "mean_recall_coverage_head_tail_coverage"


def test_projected_gradient_grows_under_violation_and_falls_to_zero():
    objective = get_objective("mean_recall", {"coverage": 0.95}, constraint_rate=0.5)
    slack = 3 * smooth_confusion(COUNTS, "balanced").sum(0) - 0.95
    multipliers = objective.initial_multipliers(3)
    assert multipliers["coverage"].tolist() == [0, 0, 0]
    for period in range(1, 4):
        multipliers = objective.update_multipliers(multipliers, COUNTS)
        assert torch.allclose(multipliers["coverage"], (-0.5 * period * slack).clamp(min=0))
    assert multipliers["coverage"][0] == 0 and multipliers["coverage"][2] > multipliers["coverage"][1] > 0
    held = [float(multipliers["coverage"].max())]
    for _ in range(100):
        multipliers = objective.update_multipliers(multipliers, torch.eye(3, dtype=torch.long) * 8)
        held.append(float(multipliers["coverage"].max()))
    assert held == sorted(held, reverse=True) and held[1] < held[0] and held[-1] == 0


def test_projected_gradient_is_bounded():
    constraint = Constraint("coverage", lambda confusion: confusion.sum(0) - 10, rate=30.0, maximum=100.0)
    assert constraint.update_multiplier(None, CONFUSION).tolist() == [100.0] * 3


def test_exponential_form_is_the_authors():
    """lambda_j = max(0, 100 (1 - exp((cov_j - alpha / K) / tau))), tau = temperature / K in absolute coverage."""
    objective = get_objective("mean_recall", {"coverage": 0.95}, constraint_update="exponential")
    got = objective.update_multipliers({"coverage": torch.full((3,), 7.0)}, COUNTS)["coverage"]
    tau = objective.constraints[0].temperature / 3
    coverage = smooth_confusion(COUNTS, "balanced").sum(0).tolist()
    expected = [max(0.0, 100 * (1 - math.exp((c - 0.95 / 3) / tau))) for c in coverage[1:]]
    assert got.tolist() == pytest.approx([0.0, *expected]) and got[2] > 99
    near = Constraint("coverage", lambda confusion: confusion.sum(0) - confusion.sum(0) - 0.01, "exponential")
    assert near.update_multiplier(None, CONFUSION).tolist() == pytest.approx([100 * (1 - math.exp(-1))] * 3)


def test_lagrangian_adds_the_weighted_slacks():
    objective = get_objective("mean_recall", {"coverage": 0.8})
    got = objective.lagrangian(CONFUSION, {"coverage": torch.tensor([0.0, 2.0, 3.0])})
    assert float(got) == pytest.approx(1.75 / 3 + 2 * -0.05 + 3 * -0.3)
    assert float(objective.lagrangian(CONFUSION)) == pytest.approx(1.75 / 3)


def test_a_violated_constraint_steers_towards_the_starved_class():
    objective = get_objective("mean_recall", {"coverage": 0.95})
    multipliers = objective.update_multipliers({}, COUNTS)
    push = metric_gradient(objective, COUNTS, multipliers=multipliers) - metric_gradient(objective, COUNTS)
    assert push.sum(0)[2] > 0 > push.sum(0)[0]


# --- selection ---------------------------------------------------------------------------------------------------


def test_score_puts_feasible_first_then_the_smaller_violation():
    objective = get_objective("mean_recall", {"coverage": 0.7}, tolerance=0.01)
    poor = torch.tensor([[3, 3, 2], [2, 3, 3], [3, 2, 3]])  # feasible, mean recall 3/8
    better = torch.tensor([[6, 1, 1], [1, 6, 1], [1, 1, 6]])
    slightly = torch.tensor([[8, 0, 0], [1, 7, 0], [3, 0, 5]])  # coverages 12, 7, 5 of 24: relative .625
    badly = torch.tensor([[8, 0, 0], [0, 8, 0], [3, 2, 3]])  # relative .375
    assert objective.score(poor) == pytest.approx(3 / 8) and objective.score(better) == pytest.approx(3 / 4)
    assert objective.score(poor) > objective.score(slightly) > objective.score(badly)
    assert confusion_matrix(badly).diagonal().sum() > confusion_matrix(poor).diagonal().sum()


def test_tolerance_decides_on_feasibility():
    slightly = torch.tensor([[8, 0, 0], [1, 7, 0], [3, 0, 5]])  # violates .7 by .075
    assert get_objective("mean_recall", {"coverage": 0.7}, tolerance=0.08).score(slightly) == pytest.approx(20 / 24)
    assert get_objective("mean_recall", {"coverage": 0.7}, tolerance=0.07).score(slightly) < -1e5


@pytest.mark.parametrize("num_classes", [3, 10, 49, 100])
def test_rounding_does_not_make_a_perfect_classifier_infeasible(num_classes):
    counts = torch.eye(num_classes, dtype=torch.long) * 7
    assert get_objective("mean_recall", {"coverage": 1.0}).score(counts) == pytest.approx(1)


def test_score_is_psi_on_raw_counts():
    assert get_objective("min_recall").score(COUNTS) == pytest.approx(1 / 4)
    assert get_objective("h_mean").score(torch.tensor([[3, 0], [3, 0]])) == 0


# --- a function of one's own -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda confusion: confusion.diagonal(), r"to one number by differentiable .* Tensor of shape \(3,\)"),
        (lambda confusion: 0.5, "to one number"),
        (lambda confusion: confusion.detach().sum(), "by differentiable torch operations"),
        (lambda confusion: (confusion.argmax(1) == torch.arange(3)).sum(), "by differentiable torch operations"),
        (lambda confusion: (confusion - confusion).sum().sqrt(), "derivative of objective '<lambda>' is not finite"),
    ],
)
def test_a_callable_that_cannot_steer_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        metric_gradient(get_objective(function), COUNTS)


def test_multipliers_of_a_minimum_follow_counted_and_soft_recalls():
    counts = torch.tensor([[1, 1], [0, 6]])
    soft = torch.tensor([[1.5, 0.5], [2.0, 4.0]], dtype=torch.float64)
    found = get_objective("min_recall", min_rate=10.0).update_multipliers({}, counts, soft)["min_recall"]
    # half a sample on the hits: (1.5/3, 6.5/7) counted, (2/3, 4.5/7) soft; harmonic mean of 2 and 6: 3
    recall = torch.tensor([(1.5 / 3 + 3 * 2 / 3) / 4, (6.5 / 7 + 3 * 4.5 / 7) / 4], dtype=torch.float64)
    torch.testing.assert_close(found, torch.softmax(-3 * math.log(2) * recall, 0))
    constrained = get_objective("min_recall", {"coverage": 0.95})
    plain, given = (constrained.update_multipliers({}, counts, seen)["coverage"] for seen in (None, soft))
    assert torch.equal(plain, given)  # a constraint holds by the counts


# --- a metric of one's own ---------------------------------------------------------------------------------------


class WorstPrecision:
    """The smallest precision; neither a `SmoothMetric` nor a `MinimumMetric`."""

    name, steered, share = "worst_precision", True, 0.0

    def components(self, confusion):
        return confusion.diagonal() / confusion.sum(0).clamp(min=1e-12)

    def value(self, confusion):
        return self.components(confusion).amin()

    def lagrangian(self, confusion, multiplier):
        precision_K = self.components(confusion)
        weight_K = self.initial_multiplier(len(precision_K)) if multiplier is None else multiplier
        return (weight_K.to(precision_K) * precision_K).sum()

    def initial_multiplier(self, num_classes):
        return torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)

    def update_multiplier(self, multiplier, confusion, class_counts):
        return torch.softmax(-10 * self.components(confusion), 0)


OWN = Objective(WorstPrecision())  # precisions 8/14, 4/6, 2/4


def test_a_metric_of_ones_own():
    assert get_objective(OWN) is OWN and OWN.name == "worst_precision"
    assert OWN.score(COUNTS) == pytest.approx(1 / 2)
    multipliers = OWN.update_multipliers({}, COUNTS)
    assert int(multipliers["worst_precision"].argmax()) == 2
    # d/dC of its Lagrangian, by finite differences along the logits
    gradient, step = metric_gradient(OWN, COUNTS, multipliers=multipliers), 1e-6
    smoothed = smooth_confusion(COUNTS)
    for k, j in ((0, 2), (2, 2)):
        logits = smoothed.log()
        logits[k, j] += step
        moved = smoothed.sum(1, keepdim=True) * logits.softmax(1)
        change = OWN.lagrangian(moved, multipliers) - OWN.lagrangian(smoothed, multipliers)
        assert float(gradient[k, j]) == pytest.approx(float(change) / step, abs=1e-6)


def test_a_metric_of_ones_own_is_taken_for_the_minimum_that_it_is():
    assert default_target_share(OWN, 10) == 0.5 and default_target_share(get_objective("h_mean"), 10) == 0.97
    multipliers = OWN.update_multipliers({}, COUNTS)
    report = refresh_report(OWN, COUNTS, "abc", multipliers, gradient=torch.zeros(3, 3))
    assert report["gain_set_psi"] == pytest.approx(1 / 2) and report["gain_set_psi_error"] > 0  # that of the minimum
    log = {"gain_set_psi_error": 0.01, "gain_set_worst_recall": 0.5}
    swinging = [Refresh(t, t, COUNTS, report=log | {"gain_set_psi": 0.03 * (t % 2)}) for t in range(20)]
    for metric, kinds in ((OWN, set()), (get_objective("h_mean"), {"swing"})):
        watch = HealthWatch(metric, lambda sentence: None)
        watch.start(COUNTS, "abc")  # knows recalls alone
        for refresh in swinging:
            watch.look(refresh)
        assert watch.said == kinds


def test_a_run_for_a_metric_of_ones_own(tmp_path):
    run = tiny.trainer(tmp_path, "convnext", objective=OWN, freeze_backbone=True, max_steps=4, learning_rate=0.01)
    run.train()
    assert run.pair_state.multipliers.keys() == {"worst_precision"} and run.pair_state.geometry["worst_share"] == 0
    found = run.evaluate()
    assert found["eval_psi"] == found["eval_selection_score"] == float(OWN.value(confusion_matrix(run.gain_counts)))
    assert found["eval_psi"] != found["eval_min_recall"]

"""From counts of the gain set to multipliers, gains and P."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from runs import At

from selmix_hf.method.confusion import ClassStatistics, smooth_confusion
from selmix_hf.method.gain import metric_gradient
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.training.pair_loader import DrawPlan, PairLoader
from selmix_hf.training.state import PairState
from selmix_hf.training.steering import Steering


@pytest.mark.parametrize(("policy", "effective"), [("uniform", 16), ("greedy", 1)])
def test_pair_sampling(policy, effective, tmp_path):
    run = tiny.trainer(tmp_path, pair_sampling=policy, max_steps=4, **tiny.BARE)
    run.train()
    report = next(log for log in run.state.log_history if "effective_pairs" in log)
    assert report["effective_pairs"] == pytest.approx(effective)
    assert "inverse_temperature" not in report


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 0.5),
        ({"objective": "h_mean"}, 0.97),
        ({"objective": "h_mean", "target_share": 0.3}, 0.3),
        ({"objective": "mean_recall", "constraints": {"coverage": 0.9}}, 0.5),
    ],
)
def test_the_share_of_pairs_follows_the_objective(options, share, tmp_path):
    run = tiny.trainer(tmp_path, max_steps=4, refresh_steps=4, **options, **tiny.BARE)
    run.train()
    expected = pair_distribution(run.gain, target_share=share).probability
    torch.testing.assert_close(run.pair_state.probability, expected)


def test_the_temperature_that_auto_chose_is_logged_and_gives_the_same_pairs_as_a_number(tmp_path):
    auto = tiny.trainer(tmp_path / "auto", max_steps=4, refresh_steps=4, **tiny.BARE)
    auto.train()
    (logged,) = [log["inverse_temperature"] for log in auto.state.log_history if "gain_set_psi" in log]
    number = tiny.trainer(tmp_path / "n", inverse_temperature=logged, max_steps=4, refresh_steps=4, **tiny.BARE)
    number.train()
    torch.testing.assert_close(number.pair_state.probability, auto.pair_state.probability)


def test_a_numeric_temperature_sees_gains_divided_by_the_multipliers_and_the_reported_gain_is_not(tmp_path):
    options = {"objective": "mean_recall", "constraints": {"coverage": 0.95}, "max_steps": 4}
    auto = tiny.trainer(tmp_path / "auto", **options, **tiny.BARE)
    numeric = tiny.trainer(tmp_path / "numeric", inverse_temperature=100.0, **options, **tiny.BARE)
    for run in (auto, numeric):
        run.train()
    largest = float(numeric.pair_state.multipliers["coverage"].max())
    assert largest > 0 and torch.equal(auto.gain, numeric.gain)
    expected = pair_distribution(numeric.gain / (1 + largest), inverse_temperature=100.0).probability
    assert torch.allclose(numeric.pair_state.probability, expected, atol=1e-7)
    plain = tiny.trainer(tmp_path / "plain", inverse_temperature=100.0, max_steps=4, **tiny.BARE)
    plain.train()  # its multipliers are weights of the classes, which sum to 1
    expected = pair_distribution(plain.gain, inverse_temperature=100.0).probability
    assert torch.allclose(plain.pair_state.probability, expected, atol=1e-7)


@pytest.mark.parametrize("confusion", ["hard", "soft"])
def test_multipliers_go_on_from_period_to_period_at_the_rates_of_the_options(confusion, tmp_path):
    """Worked out anew from the counts of every refresh: mu <- (mu - rate * slack)+, log lambda as a running mean; with
    soft counts lambda follows those for three quarters."""
    options = {"constraints": {"coverage": 0.95}, "constraint_rate": 0.7, "min_rate": 4.0, "min_memory": 0.6}
    run = tiny.trainer(tmp_path, max_steps=16, learning_rate=0.01, confusion=confusion, **options, **tiny.BARE)
    seen = []

    def look(state):
        soft = run.gain_set.soft_confusion(state.global_step).counts if confusion == "soft" else run.gain_counts
        seen.append((run.gain_counts, soft, run.pair_state.multipliers))

    run.add_callback(At("on_epoch_begin", look))  # after the refresh
    run.train()
    constraint, log_minimum = torch.zeros(4, dtype=torch.float64), None
    assert len(seen) == 4
    for counts, soft, multipliers in seen:
        smoothed = smooth_confusion(counts, "balanced")
        constraint = (constraint - 0.7 * (4 * smoothed.sum(0) - 0.95)).clamp(min=0)
        smoothed = 0.75 * smooth_confusion(soft, "balanced") + 0.25 * smoothed
        target = -4.0 * smoothed.diagonal() / smoothed.sum(1)
        log_minimum = target if log_minimum is None else 0.6 * log_minimum + 0.4 * target
        log_minimum = log_minimum.log_softmax(0)
        assert torch.allclose(multipliers["coverage"], constraint)
        assert torch.allclose(multipliers["min_recall"], log_minimum.exp())
    assert float(constraint.max()) > 1.1 * float(seen[0][2]["coverage"].max())  # they did add up


def test_the_largest_gain_is_logged(tmp_path):
    run = tiny.trainer(tmp_path, max_steps=4, **tiny.BARE)
    run.train()
    (report,) = [log for log in run.state.log_history if "largest_gain" in log]
    assert report["largest_gain"] == pytest.approx(float(run.gain.max()))
    assert float(run.gain.max()) > float(run.gain.flatten().sort().values[-2])


def test_a_refresh_by_brute_force():
    """G pair by pair: the change of the objective by a step of the head on a mixture of two centroids."""
    torch.manual_seed(0)
    objective = get_objective("mean_recall", {"coverage": 0.95})
    head = SimpleNamespace(
        weight=torch.randn(3, 5), bias=torch.randn(3), num_classes=3, feature_step=1.0, bias_step=1.0
    )
    labels_N, features_ND = torch.arange(3).repeat_interleave(torch.tensor([7, 5, 4])), torch.randn(16, 5)
    statistics = ClassStatistics(3, 5)
    statistics.update(labels_N, features_ND @ head.weight.T + head.bias, features_ND)
    args = SimpleNamespace(beta_min=0.6, temperature="auto", pair_sampling="selmix", target_share=0.5)
    args.gradient_accumulation_steps, args.world_size, args.refresh_steps = 1, 1, 5
    before = PairState(period=2, probability=torch.full((3, 3), 1 / 9))
    sets = SimpleNamespace(train_labels=np.repeat([0, 1, 2], [20, 10, 2]), num_classes=3)
    pairs = PairLoader(sets, DrawPlan(args, 0, lambda: before, lambda: 4))
    found = Steering(objective, args, head, list("abc"), pairs).refresh(10, before, statistics, None, None)

    multipliers = objective.update_multipliers({}, statistics.counts)
    gradient_KK = metric_gradient(objective, statistics.counts, multipliers=multipliers)
    centroids_KD, gain_KK = statistics.centroids, torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            mixed_D = 0.8 * centroids_KD[i] + 0.2 * centroids_KD[j]
            step_K = torch.eye(3)[i] - (head.weight.double() @ mixed_D + head.bias).softmax(0)
            logits_KK = (centroids_KD @ mixed_D + 1)[:, None] * step_K  # how those of each class change
            gain_KK[i, j] = (gradient_KK * logits_KK).sum()
    torch.testing.assert_close(found.gain, gain_KK.float(), rtol=1e-4, atol=1e-6)
    probability_KK = pair_distribution(gain_KK, target_share=0.5).probability
    torch.testing.assert_close(found.probability.double(), probability_KK.double(), rtol=1e-3, atol=1e-5)
    draws_KK = 20 * probability_KK  # 4 pairs a step, 5 steps
    repeat = float(((draws_KK.sum(0) + draws_KK.sum(1)) / torch.tensor([20, 10, 2])).max())
    assert found.report["largest_repeat"] == pytest.approx(repeat, rel=1e-3)
    assert torch.equal(found.multipliers["coverage"], multipliers["coverage"])
    assert (found.step, found.period) == (10, 2) and {"stale_share", "kept_gain"} <= found.report.keys()

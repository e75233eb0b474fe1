"""What evaluations measure: scores, the user's own metrics, classes of the tail; and what a card may show."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from runs import BOTH

from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.ranking import ascending_recalls
from selmix_hf.training.evaluations import Evaluations


def test_selection_puts_feasible_checkpoints_first(tmp_path):
    run = tiny.trainer(tmp_path, objective="mean_recall", constraints={"coverage": 0.9}, max_steps=4, **tiny.BARE)
    feasible = torch.tensor([[6, 4, 0, 0], [4, 6, 0, 0], [0, 0, 6, 4], [0, 0, 4, 6]])
    infeasible = torch.tensor([[10, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 6, 4]])
    first, second = run._metrics(feasible), run._metrics(infeasible)
    assert first["psi"] == first["selection_score"] == pytest.approx(0.6)
    assert second["psi"] == pytest.approx(0.85) and second["smallest_coverage"] == pytest.approx(0.4)
    assert second["selection_score"] < -1e6 < first["selection_score"]
    report = run.train() and next(log for log in run.state.log_history if "gain_set_psi" in log)
    assert report["gain_set_violation"] > 0 and "largest_coverage_multiplier" in report


@BOTH
def test_compute_metrics_of_the_users_own_is_merged(freeze, tmp_path):
    def compute_metrics(prediction):
        return {"share_of_red": float((prediction.predictions.argmax(-1) == 0).mean())}

    run = tiny.trainer(tmp_path, compute_metrics=compute_metrics, freeze_backbone=freeze, max_steps=4)
    plain = tiny.trainer(tmp_path / "plain", max_steps=4).evaluate()
    own = run.evaluate()
    assert 0 <= own["eval_share_of_red"] <= 1
    for name in ("eval_mean_recall", "eval_selection_score", "eval_recall/blue", "eval_loss"):
        assert own[name] == pytest.approx(plain[name])
    run.train()
    assert sum("eval_share_of_red" in log for log in run.state.log_history) == 2  # at the start and at the end


def test_a_class_prior_of_ones_own(tmp_path):
    options = {"constraints": {"coverage": 0.9}, "class_prior": [4, 3, 2, 1], "freeze_backbone": True, "max_steps": 4}
    run = tiny.trainer(tmp_path, objective="mean_recall", **options)
    run.train()
    counts = torch.tensor([[9, 0, 0, 0], [0, 8, 0, 0], [0, 0, 7, 0], [0, 0, 0, 9]])
    assert run._metrics(counts)["smallest_coverage"] == pytest.approx(0.1 * 4)


def test_several_evaluation_sets_without_evaluation_need_no_choice(tmp_path):
    run = tiny.trainer(tmp_path, eval_dataset={"a": tiny.images()}, **tiny.BARE)
    assert "eval_a_psi" in run.evaluate()


@pytest.mark.parametrize(("share", "tail"), [(0.25, ["grey"]), (0.5, ["blue", "grey"])])
def test_tail_share_says_which_classes_are_the_tail(share, tail, tmp_path):
    metrics = tiny.trainer(tmp_path, "convnext", tail_share=share, objective="min_head_tail_recall").evaluate()
    head = [name for name in tiny.NAMES if name not in tail]
    of_tail, of_head = (np.mean([metrics[f"eval_recall/{name}"] for name in names]) for names in (tail, head))
    assert metrics["eval_tail_recall"] == pytest.approx(of_tail)
    assert metrics["eval_head_recall"] == pytest.approx(of_head)
    assert metrics["eval_psi"] == pytest.approx(min(of_tail, of_head)) and of_tail != of_head


def evaluations():
    args = SimpleNamespace(tail_share=0.25, worst_share=0.1)
    return Evaluations(get_objective("mean_recall"), args, list("ab"), np.array([30, 10]))


def test_a_card_is_shown_evaluations_of_the_weights_as_they_are():
    found = evaluations()
    for logs, step in (({"eval_mean_recall": 0.5}, 0), ({"loss": 1.0}, 4), ({"test_mean_recall": 0.6}, 8)):
        found.remember(logs, step)
    assert found.shown == [{"eval_mean_recall": 0.5, "step": 0}, {"test_mean_recall": 0.6, "step": 8}]
    found.forget(8)
    assert found.shown == [{"eval_mean_recall": 0.5, "step": 0}]


def test_the_first_look_under_a_name_breaks_ties():
    found = evaluations()
    assert found.metrics(torch.tensor([[8, 2], [5, 5]]))["psi"] == pytest.approx(0.65)
    first = found.recalls["eval_selection_score"]
    assert first == ascending_recalls(torch.tensor([[8, 2], [5, 5]]))
    found.metrics(torch.tensor([[1, 9], [9, 1]]))
    assert found.recalls == {"eval_selection_score": first}
    found.prefix = "eval_b"
    found.metrics(torch.tensor([[1, 9], [9, 1]]))
    assert found.recalls["eval_b_selection_score"] == ascending_recalls(torch.tensor([[1, 9], [9, 1]])) != first

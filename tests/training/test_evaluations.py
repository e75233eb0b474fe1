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
    first, second = run.evaluations.metrics(feasible), run.evaluations.metrics(infeasible)
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
    assert run.evaluations.metrics(counts)["smallest_coverage"] == pytest.approx(0.1 * 4)


@BOTH
def test_predict_reports_what_evaluate_does(freeze, tmp_path):
    run, test = tiny.trainer(tmp_path, freeze_backbone=freeze, max_steps=4), tiny.images((5, 4, 3, 2), seed=2)
    run.train()
    evaluated, predicted = run.evaluate(test, metric_key_prefix="test"), run.predict(test)
    assert predicted.metrics.keys() == evaluated.keys() - {"epoch"}
    timed = {f"test_{name}" for name in ("runtime", "samples_per_second", "steps_per_second")}
    told = {name: value for name, value in predicted.metrics.items() if name not in timed}
    assert told.pop("test_loss") == pytest.approx(evaluated["test_loss"])
    assert {name: evaluated[name] for name in told} == told
    right = predicted.predictions.argmax(1) == np.array(test["label"])
    assert told["test_accuracy"] == right.mean() and "test_recall/blue" in told and "test_psi" in told
    assert run.evaluations.prefix == "test" and len(predicted.predictions) == 14


def test_predict_without_labels_gives_the_logits_alone(tmp_path):
    run = tiny.trainer(tmp_path, max_steps=4)
    test = tiny.images((5, 4, 3, 2), seed=2)
    predicted = run.predict(test.remove_columns("label"))
    assert predicted.label_ids is None and not any("recall" in name for name in predicted.metrics)
    assert predicted.predictions == pytest.approx(run.predict(test).predictions)


@BOTH
def test_logits_that_are_no_numbers_are_refused_by_the_row(freeze, tmp_path):
    run, test = tiny.trainer(tmp_path, freeze_backbone=freeze, max_steps=4), tiny.images((5, 4, 3, 2), seed=2)
    with torch.no_grad():
        run.model.classifier[-1].bias[1] = torch.nan
    for look in (run.evaluate, run.predict, run.predicted_classes):
        with pytest.raises(ValueError, match="14 of 14 rows of scores .* that of sample 0"):
            look(test)


def test_a_test_set_without_some_classes(tmp_path):
    """Refused with their names, or left out of both ways to the numbers, with how many are left."""
    test = tiny.images((5, 0, 3, 0), seed=2)
    strict = tiny.trainer(tmp_path / "strict", max_steps=4)
    for look in (strict.evaluate, strict.predict):
        with pytest.raises(ValueError, match="set has no sample of 2 of 4 classes: 'green', 'grey'.*absent_classes="):
            look(test, metric_key_prefix="test")
    run = tiny.trainer(tmp_path / "run", absent_classes="leave out", max_steps=4)
    evaluated, predicted = run.evaluate(test, metric_key_prefix="test"), run.predict(test)
    recalls = [evaluated[f"test_recall/{name}"] for name in ("red", "blue")]
    for report in (evaluated, predicted.metrics):
        assert (report["test_classes_measured"], report["test_mean_recall"]) == (2, pytest.approx(np.mean(recalls)))
        assert "test_psi" not in report and "test_recall/green" not in report
    assert run.evaluate(tiny.images((5, 4, 3, 2)))["eval_classes_measured"] == 4


def test_a_set_that_chooses_needs_every_class(tmp_path):
    part = tiny.images((5, 0, 3, 2), seed=2)
    options = {"absent_classes": "leave out", "max_steps": 4}
    with pytest.raises(ValueError, match="eval_dataset has no sample of 1 of 4 classes: 'green'.*it chooses"):
        tiny.trainer(tmp_path, eval_dataset=part, **options)
    sets = {"a": tiny.images(tiny.GAIN_COUNTS, seed=1), "b": part}
    with pytest.raises(ValueError, match=r"eval_dataset\['b'\] has no sample of 1 of 4 classes"):
        tiny.trainer(tmp_path, eval_dataset=sets, metric_for_best_model="eval_b_selection_score", **options)
    run = tiny.trainer(tmp_path, eval_dataset=sets, metric_for_best_model="eval_a_selection_score", **options)
    run.train()
    assert any(log.get("eval_b_classes_measured") == 3 for log in run.state.log_history)
    with pytest.raises(ValueError, match="eval_dataset has no sample of 1 of 4 classes: 'green'"):
        tiny.trainer(tmp_path, eval_dataset=part)


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
    args = SimpleNamespace(tail_share=0.25, worst_share=0.1, absent_classes="refuse")
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


def test_what_a_model_gives_beside_its_logits_is_not_measured(tmp_path):
    """A distilled DeiT gives the mean of two heads, then each of them; it takes no labels, so Trainer has none."""
    run = tiny.trainer(tmp_path, "deit-distilled", **tiny.BARE)
    test = tiny.images((3, 3, 3, 3), 2)
    mean, *own = run.predict(test).predictions
    assert len(own) == 2 and np.allclose(mean, (own[0] + own[1]) / 2, atol=1e-6)

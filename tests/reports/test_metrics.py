"""Every reported number by hand, and the same through `evaluate` and any Trainer."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction

from selmix_hf import classification_metrics, evaluate_metric, min_recall_interval, worst_share_recall_interval
from selmix_hf.method.gain import metric_gradient
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.reports.metrics import make_compute_metrics, refresh_report

# 10, 5 and 20 samples; recalls .8, .4, .75
COUNTS = torch.tensor([[8, 2, 0], [1, 2, 2], [5, 0, 15]])


def samples():
    """Labels and predictions with these counts."""
    cells = [(k, j) for k in range(3) for j in range(3) for _ in range(int(COUNTS[k, j]))]
    labels, predictions = np.array(cells).T
    return labels, predictions


def test_by_hand():
    report = classification_metrics(COUNTS, class_names=["a", "b", "c"])
    assert report["accuracy"] == pytest.approx(25 / 35)
    assert report["mean_recall"] == pytest.approx((0.8 + 0.4 + 0.75) / 3)
    assert (report["min_recall"], report["worst_class"]) == (pytest.approx(0.4), "b")
    assert report["g_mean"] == pytest.approx((0.8 * 0.4 * 0.75) ** (1 / 3))
    assert report["h_mean"] == pytest.approx(3 / (1 / 0.8 + 1 / 0.4 + 1 / 0.75))
    # under a balanced prior the columns sum to (.8 + .2 + .25) / 3, (.2 + .4 + 0) / 3, (0 + .4 + .75) / 3
    f1 = [2 * 0.8 / (1 + 1.25), 2 * 0.4 / (1 + 0.6), 2 * 0.75 / (1 + 1.15)]
    assert report["balanced_macro_f1"] == pytest.approx(sum(f1) / 3)
    assert report["macro_f1"] == pytest.approx((16 / (10 + 14) + 4 / (5 + 4) + 30 / (20 + 17)) / 3)
    assert report["smallest_coverage"] == pytest.approx(0.6)
    assert [report[f"recall/{name}"] for name in "abc"] == pytest.approx([0.8, 0.4, 0.75])
    exact = binomtest(2, 5).proportion_ci(0.95 ** (1 / 3), method="exact")
    assert (report["recall_low/b"], report["recall_high/b"]) == pytest.approx(tuple(exact))
    assert (report["min_recall_low"], report["min_recall_high"]) == pytest.approx(min_recall_interval(COUNTS))


def test_the_worst_share_and_the_classes_at_zero_by_hand():
    """Recalls .8, .4, .75 and 0: two of four classes are the worst half."""
    counts = torch.zeros(4, 4, dtype=torch.long)
    counts[:3, :3], counts[3, 0] = COUNTS, 6
    report = classification_metrics(counts, worst_share=0.5, per_class=False)
    assert (report["worst_share_recall"], report["worst_share"]) == (pytest.approx(0.2), 0.5)
    assert report["zero_recall_classes"] == 1 and classification_metrics(COUNTS)["zero_recall_classes"] == 0
    ends = (report["worst_share_recall_low"], report["worst_share_recall_high"])
    assert ends == worst_share_recall_interval(counts, 0.5)
    assert evaluate_metric(4, worst_share=0.5)._compute([0, 1, 2, 3], [0, 1, 2, 3])["worst_share"] == 0.5


def test_a_share_of_one_class_or_less_is_the_minimum():
    report = classification_metrics(COUNTS)
    for end in ("", "_low", "_high"):
        assert report[f"worst_share_recall{end}"] == report[f"min_recall{end}"]
    assert "worst_share" not in report
    with pytest.raises(ValueError, match=r"worst_share must lie in \(0, 1\], found 0.0"):
        classification_metrics(COUNTS, worst_share=0.0)


def test_the_prior_changes_coverage_but_no_recall():
    balanced, own = (classification_metrics(COUNTS, class_prior=prior) for prior in ("balanced", "validation"))
    assert own["smallest_coverage"] == pytest.approx(3 * 4 / 35)
    for name in ("mean_recall", "min_recall", "g_mean", "h_mean", "accuracy"):
        assert own[name] == pytest.approx(balanced[name])
    assert balanced["worst_class"] == "1"


def test_head_and_tail():
    report = classification_metrics(COUNTS, train_counts=[100, 30, 5], tail_share=0.3, per_class=False)
    assert (report["head_recall"], report["tail_recall"]) == (pytest.approx(0.6), pytest.approx(0.75))
    assert report["min_head_tail_recall"] == pytest.approx(0.6)
    assert not any("/" in name for name in report) and report["min_recall_low"] < 0.4 < report["min_recall_high"]


@pytest.mark.parametrize(
    ("train_counts", "groups"),
    [
        ([101, 100, 19], {"many": 0.8, "medium": 0.4, "few": 0.75}),
        ([500, 20, 20], {"many": 0.8, "medium": 0.575}),
        ([5, 4, 3], {"few": 0.65}),
    ],
)
def test_many_medium_few(train_counts, groups):
    """More than 100 training samples, 20 to 100, fewer than 20; groups without a class are left out."""
    report = classification_metrics(COUNTS, train_counts=train_counts)
    found = {name: report[f"{name}_recall"] for name in ("many", "medium", "few") if f"{name}_recall" in report}
    assert found == pytest.approx(groups)


def test_a_class_without_recall():
    counts = torch.tensor([[4, 0], [4, 0]])
    report = classification_metrics(counts)
    assert report["g_mean"] == report["h_mean"] == report["min_recall"] == report["smallest_coverage"] == 0
    assert report["mean_recall"] == 0.5


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_what_scikit_learn_gives_on_any_set(samples):
    """Of five classes any may lack samples, predictions or both."""
    labels, predictions = np.array(samples).T
    report = classification_metrics(
        sklearn_metrics.confusion_matrix(labels, predictions, labels=range(5)), absent="leave out"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are only predicted
        assert report["mean_recall"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predictions))
    assert report["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)
    )
    assert report["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions))
    assert report["classes_measured"] == len(set(labels))


def test_classes_without_samples_are_left_out_of_everything():
    """Four classes, the second of which has none, against the three others alone; its predictions are misses."""
    counts = torch.tensor([[8, 1, 1, 0], [0, 0, 0, 0], [1, 1, 2, 1], [5, 0, 0, 15]])
    groups = {"train_counts": [500, 300, 50, 5], "worst_share": 0.5, "class_names": "abcd"}
    report = classification_metrics(counts, absent="leave out", **groups)
    assert (report["classes_measured"], report["worst_class"]) == (3, "c")
    assert report["mean_recall"] == pytest.approx((0.8 + 0.4 + 0.75) / 3)
    assert report["worst_share_recall"] == pytest.approx((0.4 + 0.5 * 0.75) / 1.5)
    assert report["smallest_coverage"] == pytest.approx(0.1 + 0.4)  # of c: shares of the rows of a, c and d
    assert report["macro_f1"] == pytest.approx((16 / 24 + 0 / 2 + 4 / 8 + 30 / 36) / 4)  # b has predictions
    assert (report["head_recall"], report["tail_recall"]) == (pytest.approx(0.6), pytest.approx(0.75))
    assert "recall/b" not in report and report["recall/d"] == 0.75
    assert "medium_recall" in report and report["many_recall"] == pytest.approx(0.8)
    alone = classification_metrics([[8, 2, 0], [1, 2, 2], [5, 0, 15]], worst_share=0.5, class_names="acd")
    for name in ("min_recall_low", "worst_share_recall_high", "recall_low/c", "recall_high/d", "h_mean"):
        assert report[name] == pytest.approx(alone[name])
    whole = classification_metrics(COUNTS, absent="leave out")
    assert whole.pop("classes_measured") == 3 and whole == classification_metrics(COUNTS)
    assert classification_metrics(counts, absent="leave out", class_prior=[1, 9, 1, 1])[
        "smallest_coverage"
    ] == pytest.approx(0.5)


def test_metrics_of_any_form_of_counts():
    expected = classification_metrics(COUNTS)
    for counts in (COUNTS.numpy(), COUNTS.tolist(), sklearn_metrics.confusion_matrix(*samples())):
        assert classification_metrics(counts) == expected
    with pytest.raises(ValueError, match="with -3"):
        classification_metrics([[4, -3], [1, 2]])


def test_a_class_without_samples_is_named():
    with pytest.raises(ValueError, match="train_counts must have one number a class, 2, found 3"):
        classification_metrics(torch.eye(2).long(), train_counts=[1, 2, 3])
    with pytest.raises(ValueError, match="class_names must have one name a class, 2, found 1"):
        classification_metrics(torch.eye(2).long(), class_names=["a"], per_class=False)
    with pytest.raises(ValueError, match="no sample of 1 of 2 classes: 1"):
        classification_metrics(torch.tensor([[4, 1], [0, 0]]))
    with pytest.raises(ValueError, match="no sample of 1 of 2 classes: 'b'.*pass absent='leave out'"):
        make_compute_metrics(2, class_names="ab")((np.array([0]), np.array([0])))


def test_compute_metrics_of_any_trainer():
    labels, predictions = samples()
    scores = np.eye(3)[predictions] + 0.1
    expected = classification_metrics(COUNTS, train_counts=[9, 5, 1])
    compute = make_compute_metrics(3, train_counts=[9, 5, 1])
    for form in (predictions, scores, (scores, np.zeros(7))):
        assert compute(EvalPrediction(form, labels)) == expected
    # what include_for_metrics adds
    assert compute(EvalPrediction(scores, labels, inputs=np.zeros(35), losses=np.zeros(35))) == expected
    assert compute((scores, labels)) == expected
    assert compute((torch.tensor(scores, requires_grad=True).bfloat16(), torch.tensor(labels))) == expected
    assert compute((scores.tolist(), labels.astype(np.uint16))) == expected


@pytest.mark.parametrize("make", [make_compute_metrics, evaluate_metric])
def test_options_are_checked_before_there_are_samples(make):
    with pytest.raises(TypeError, match="has no option 'abset', did you mean 'absent'"):
        make(3, abset="leave out")
    with pytest.raises(TypeError, match=r"has no option 'counts'"):
        make(3, counts=[[1]])
    with pytest.raises(ValueError, match="absent must be 'refuse' or 'leave out', found 'leave_out'"):
        make(3, absent="leave_out")


def test_scores_that_tell_nothing_are_refused():
    """A single logit has its largest in column 0, and so has a row of NaN by argmax."""
    labels = np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"N x 2\), found torch.float32 of shape \(4, 1\).*two outputs"):
        make_compute_metrics(2)((np.float32([[-3], [4], [5], [-2]]), labels))
    with pytest.raises(ValueError, match="2 of 4 rows of scores have no largest one, the first is that of sample 1"):
        make_compute_metrics(2)((np.array([[1, 0], [np.nan, 1], [0, 1], [np.nan, np.nan]]), labels))


def test_a_set_without_some_classes_through_every_door():
    labels, predictions = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    for answer in (
        make_compute_metrics(3, absent="leave out")((predictions, labels)),
        evaluate_metric(3, absent="leave out").compute(predictions=predictions, references=labels),
    ):
        assert (answer["mean_recall"], answer["classes_measured"]) == (0.75, 2)
    with pytest.raises(ValueError, match="no sample of 1 of 3 classes: 1.*absent='leave out'"):
        make_compute_metrics(3)((predictions, labels))


def test_the_evaluate_adapter_equals_the_function(tmp_path):
    labels, predictions = samples()
    expected = classification_metrics(COUNTS, class_names=["a", "b", "c"])
    metric = evaluate_metric(3, cache_dir=str(tmp_path), class_names=["a", "b", "c"])
    for half in (slice(0, 15), slice(15, None)):
        metric.add_batch(predictions=predictions[half], references=labels[half])
    assert metric.compute() == expected
    assert metric.compute(predictions=predictions.tolist(), references=labels.tolist()) == expected


def test_the_evaluate_adapter_refuses_what_evaluate_truncates():
    metric = evaluate_metric(3)
    with pytest.raises(ValueError, match="predictions must be class indices, found float64: take the argmax"):
        metric.add_batch(predictions=[0.9, 1.9], references=[0, 1])
    with pytest.raises(ValueError, match="references must be class indices, found float64"):
        metric.add_batch(predictions=[0, 1], references=[0.0, 1.0])
    with pytest.raises(ValueError, match="predictions must be class indices"):
        metric.compute(predictions=[0.9, 1.9], references=[0, 1])
    with pytest.raises(ValueError, match="predictions must be class indices"):
        metric.add(prediction=0.9, reference=0)


@pytest.mark.parametrize(
    ("objective", "constraints", "known"),
    [
        ("mean_recall", None, True),
        ("h_mean", None, True),
        (lambda matrix: matrix.diagonal().sum(), None, True),
        ("min_recall", None, False),
        ("worst_share_recall", None, False),
        ("mean_recall", {"coverage": 0.95}, False),
    ],
)
def test_the_error_of_a_refresh_takes_the_gradient_of_psi_alone(objective, constraints, known):
    """The same number with D given, which is looked at where it is that of psi and nothing else."""
    psi = get_objective(objective, constraints)
    multipliers = psi.update_multipliers({}, COUNTS)
    gradient = metric_gradient(psi, COUNTS, multipliers=multipliers)
    distribution = pair_distribution(torch.tensor([[1.0, 2, 3], [0, 1, 2], [-1, 0, 1]]))
    without, given, doubled = (
        refresh_report(psi, COUNTS, ["a", "b", "c"], multipliers, gradient, distribution, of_refresh)
        for of_refresh in (None, gradient, 2 * gradient)
    )
    assert given == without and given["gain_set_psi_error"] > 0
    assert doubled["gain_set_psi_error"] == given["gain_set_psi_error"] * (2 if known else 1)

"""Counts, centroids, smoothing and priors, by hand-worked numbers."""

import datetime
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from selmix_hf.method.confusion import (
    ClassStatistics,
    as_counts,
    confusion_counts,
    confusion_matrix,
    measured_classes,
    predicted_classes,
    require_all_classes,
    resolve_class_prior,
    smooth_confusion,
)

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
PREDICTIONS = torch.tensor([0, 0, 0, 0, 1, 2, 1, 1])
COUNTS = torch.tensor([[3, 0, 0], [1, 1, 1], [0, 2, 0]])


def test_counts_have_true_classes_in_rows():
    counts = confusion_counts(LABELS, PREDICTIONS, 3)
    assert counts.dtype == torch.long and torch.equal(counts, COUNTS)


def test_counts_from_scores_take_the_largest():
    scores = torch.nn.functional.one_hot(PREDICTIONS, 3) * 2.0 - 5
    assert torch.equal(confusion_counts(LABELS, scores, 3), COUNTS)


def test_no_samples_count_nothing():
    empty = torch.zeros(0, dtype=torch.long)
    assert torch.equal(confusion_counts(empty, empty, 3), torch.zeros(3, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (torch.tensor([0, 3]), torch.tensor([0, 0]), r"every label must lie in 0\.\.2 for 3 classes, found 0\.\.3"),
        (torch.tensor([-100, 1]), torch.tensor([0, 0]), r"every label .* found -100\.\.1"),
        (torch.tensor([0, 1]), torch.tensor([0, 7]), r"every prediction .* found 0\.\.7"),
        (torch.tensor([0, 1]), torch.tensor([-1, 0]), r"every prediction .* found -1\.\.0"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), "labels must be integers, found torch.float32"),
        (torch.tensor([0, 1]), torch.tensor([0.9, 1.0]), "predictions must be integers, found torch.float32"),
        (torch.tensor([0]), torch.tensor([0, 1, 2]), r"labels of shape \(1,\), but \(3,\) predictions"),
    ],
)
def test_bad_labels_and_predictions_are_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_counts(labels, predictions, 3)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (torch.rand(2, 1), r"scores of 3 classes \(N x 3\), found torch.float32 of shape \(2, 1\).*two outputs"),
        (torch.zeros(2, 1).long(), r"found torch.int64 of shape \(2, 1\)\. Pass the column itself"),
        (torch.rand(2, 5), r"scores of 3 classes \(N x 3\), found torch.float32 of shape \(2, 5\)\.$"),
        (
            torch.tensor([[0, 1.0, 0], [0, 1, torch.nan]]),
            "1 of 2 rows of scores .* that of sample 1 of class 1: 0, 1, nan",
        ),
    ],
)
def test_scores_that_tell_no_class_are_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_counts(torch.tensor([0, 1]), predictions, 3)


def test_infinite_scores_tell_a_class_where_one_is_the_largest():
    inf = torch.inf
    scores = torch.tensor([[-inf, 1, -inf], [0, 2, inf], [3, 3, -inf]])
    assert predicted_classes(scores).tolist() == [1, 2, 0]
    assert predicted_classes(torch.zeros(0, 3)).tolist() == []
    for undecided in ([-inf, -inf, -inf], [inf, 0, inf]):
        with pytest.raises(ValueError, match="1 of 4 rows.*the first is that of sample 40"):
            predicted_classes(torch.cat([scores, torch.tensor([undecided])]), range(10, 50, 10))


# --- counts ------------------------------------------------------------------------------------------------------


def test_counts_come_in_any_form():
    given = sklearn_metrics.confusion_matrix(LABELS.numpy(), PREDICTIONS.numpy())
    for counts in (COUNTS, COUNTS.int(), COUNTS.to(torch.uint16), given, given.astype("uint8"), given.tolist()):
        assert as_counts(counts).dtype == torch.long and torch.equal(as_counts(counts), COUNTS)
        assert torch.equal(confusion_matrix(counts), confusion_matrix(COUNTS))
        assert torch.equal(smooth_confusion(counts), smooth_confusion(COUNTS))


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ([[1, 2, 3], [4, 5, 6]], r"int64 of shape \(2, 3\)"),
        ([[3, -2], [0, 1]], r"int64 of shape \(2, 2\) with -2"),
        (torch.eye(2), r"float32 of shape \(2, 2\)"),
        (torch.eye(2).bool(), "bool"),
        ([], r"float64 of shape \(0,\)"),
        ([[1, 0], [1]], "rows of several lengths"),
        (sklearn_metrics.confusion_matrix([0, 1], [0, 1], normalize="true"), "float64"),
    ],
)
def test_what_is_no_matrix_of_counts_is_refused(counts, found):
    with pytest.raises(ValueError, match=f"a row for each true class; found {found}"):
        confusion_matrix(counts)


def test_classes_without_samples_are_refused_or_left_out():
    counts = torch.tensor([[3, 1, 2], [0, 0, 0], [1, 0, 3]])
    with pytest.raises(ValueError, match="no sample of 1 of 3 classes: 1.*or pass absent='leave out'"):
        confusion_matrix(counts)
    matrix = confusion_matrix(counts, "balanced", "leave out")
    assert torch.allclose(matrix, torch.tensor([[3, 1, 2], [0, 0, 0], [1.5, 0, 4.5]], dtype=torch.double) / 12)
    assert measured_classes(counts.sum(1), "leave out").tolist() == [True, False, True]
    with pytest.raises(ValueError, match="absent must be 'refuse' or 'leave out', found 'skip'"):
        confusion_matrix(counts, absent="skip")
    with pytest.raises(ValueError, match="no sample of any class"):
        measured_classes(torch.zeros(3), "leave out")


# --- statistics --------------------------------------------------------------------------------------------------


def test_statistics_by_hand():
    statistics = ClassStatistics(3, 2)
    features = torch.tensor([[1.0, 0], [2, 0], [6, 3], [0, 1], [0, 2], [3, 3], [5, 5], [7, 9]])
    statistics.update(LABELS, PREDICTIONS, features)
    assert torch.equal(statistics.counts, COUNTS)
    assert statistics.class_counts.tolist() == [3, 3, 2] and statistics.num_samples == 8
    assert torch.equal(statistics.centroids, torch.tensor([[3.0, 1], [1, 2], [6, 7]], dtype=torch.float64))
    assert statistics.mean_loss == 0  # classes, not logits, were given


def test_loss_is_the_mean_cross_entropy():
    statistics = ClassStatistics(2)
    log3 = torch.tensor(3.0).log()
    # the true class has probability 3/4, 1/4, 1/2
    statistics.update(
        torch.tensor([0, 0]), torch.stack([torch.stack([log3, 0 * log3]), torch.stack([-log3, 0 * log3])])
    )
    statistics.update(torch.tensor([1]), torch.zeros(1, 2))
    expected = -(torch.tensor([3 / 4, 1 / 4, 1 / 2]).log().mean())
    assert statistics.mean_loss == pytest.approx(float(expected), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_batches_equal_one_pass(seed, cuts):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (60,), generator=generator)
    logits, features = torch.randn(60, 4, generator=generator), torch.randn(60, 5, generator=generator)
    whole = ClassStatistics(4, 5)
    whole.update(labels, logits, features)
    batched = ClassStatistics(4, 5)
    edges = [0, *sorted(cuts), 60]
    for start, end in itertools.pairwise(edges):
        batched.update(labels[start:end], logits[start:end], features[start:end])
    assert torch.equal(batched.counts, whole.counts)
    assert torch.allclose(batched.feature_sums, whole.feature_sums, rtol=0, atol=1e-12)
    assert batched.mean_loss == pytest.approx(whole.mean_loss, rel=1e-5)


def _reduce(rank: int, store: str) -> ClassStatistics:
    timeout = datetime.timedelta(seconds=60)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timeout
    )
    statistics = ClassStatistics(3, 1)
    statistics.update(LABELS[rank::2], PREDICTIONS[rank::2], torch.ones(4, 1) * (rank + 1))
    statistics.all_reduce()
    torch.distributed.destroy_process_group()
    # samples 0, 2, 4, 6 have feature 1 and samples 1, 3, 5, 7 feature 2
    assert torch.equal(statistics.counts, COUNTS)
    assert statistics.feature_sums.tolist() == [[1 + 2 + 1], [2 + 1 + 2], [1 + 2]]
    return statistics


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_all_reduce_gives_every_process_the_sum(tmp_path):
    other = torch.multiprocessing.get_context("spawn").Process(target=_reduce, args=(1, str(tmp_path / "store")))
    other.start()
    _reduce(0, str(tmp_path / "store"))
    other.join(60)
    assert other.exitcode == 0


def test_all_reduce_without_processes_changes_nothing():
    statistics = ClassStatistics(3)
    statistics.update(LABELS, PREDICTIONS)
    assert torch.equal(statistics.all_reduce().counts, COUNTS)


# --- missing classes ---------------------------------------------------------------------------------------------


def test_missing_classes_are_named():
    with pytest.raises(ValueError, match=r"the validation set has no sample of 2 of 3 classes: 'cat', 'eel'\. .* add"):
        require_all_classes(torch.tensor([0, 4, 0]), ["cat", "dog", "eel"], "the validation set")
    with pytest.raises(ValueError, match="1 of 3 classes: 1"):
        require_all_classes(torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match=r"20 of 30 classes: 0, .*, 9 and 10 more"):
        require_all_classes(torch.tensor([0] * 20 + [1] * 10))
    require_all_classes(torch.tensor([1, 2]))


@pytest.mark.parametrize("function", [confusion_matrix, smooth_confusion])
def test_matrices_refuse_a_missing_class(function):
    with pytest.raises(ValueError, match="no sample of 1 of 3 classes: 1"):
        function(torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1]]))


def test_centroids_refuse_a_missing_class():
    statistics = ClassStatistics(3, 2)
    statistics.update(torch.tensor([0, 2]), torch.tensor([0, 2]), torch.ones(2, 2))
    with pytest.raises(ValueError, match="1 of 3 classes: 1"):
        _ = statistics.centroids


# --- priors and smoothing ----------------------------------------------------------------------------------------


def test_priors():
    counts = torch.tensor([3, 3, 2])
    assert resolve_class_prior("validation", counts).tolist() == [3 / 8, 3 / 8, 2 / 8]
    assert resolve_class_prior("balanced", counts).tolist() == [1 / 3] * 3
    assert resolve_class_prior([2, 1, 1], counts).tolist() == [0.5, 0.25, 0.25]
    assert resolve_class_prior(torch.tensor([2.0, 1, 1]), counts).tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("prior", [[1, 1], [1, 0, 1], [1, -1, 1], [1, float("inf"), 1], [1, float("nan"), 1], []])
def test_bad_prior_vectors_are_refused(prior):
    with pytest.raises(ValueError, match="class_prior must hold 3 positive numbers"):
        resolve_class_prior(prior, torch.tensor([3, 3, 2]))


def test_unknown_prior_is_refused():
    with pytest.raises(ValueError, match="'validation', 'balanced' or a vector, found 'uniform'"):
        resolve_class_prior("uniform", torch.tensor([1]))


def test_raw_matrix_by_hand():
    expected = torch.tensor([[3, 0, 0], [1, 1, 1], [0, 2, 0]], dtype=torch.float64) / 8
    assert torch.allclose(confusion_matrix(COUNTS), expected, atol=1e-15)
    balanced = torch.tensor([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], dtype=torch.float64) / 3
    assert torch.allclose(confusion_matrix(COUNTS, "balanced"), balanced, atol=1e-15)


def test_smoothing_by_hand():
    # K = 3: 1/2 on the diagonal, 1 / (2 * 2) beside it, rows of n_k + 1
    rows = [[3.5 / 4, 0.25 / 4, 0.25 / 4], [1.25 / 4, 1.5 / 4, 1.25 / 4], [0.25 / 3, 2.25 / 3, 0.5 / 3]]
    expected = torch.tensor([3, 3, 2], dtype=torch.float64)[:, None] / 8 * torch.tensor(rows, dtype=torch.float64)
    assert torch.allclose(smooth_confusion(COUNTS), expected, atol=1e-15)
    half = smooth_confusion(COUNTS, strength=2.0)[2] * 8 / 2
    assert half.tolist() == pytest.approx([0.5 / 4, 2.5 / 4, 1 / 4])


def test_smoothing_of_two_classes():
    smoothed = smooth_confusion(torch.tensor([[1, 0], [3, 0]]), "balanced")
    assert smoothed.flatten().tolist() == pytest.approx([0.375, 0.125, 0.4375, 0.0625])


@settings(max_examples=50, deadline=None)
@given(
    cells=st.lists(st.integers(0, 50), min_size=16, max_size=16),
    weights=st.lists(st.floats(0.01, 10), min_size=4, max_size=4),
    mode=st.sampled_from(["validation", "balanced", "vector"]),
)
def test_smoothing_keeps_priors_and_is_positive(cells, weights, mode):
    counts = torch.tensor(cells).reshape(4, 4) + torch.eye(4, dtype=torch.long)
    prior = weights if mode == "vector" else mode
    for function in (smooth_confusion, confusion_matrix):
        matrix = function(counts, prior)
        assert torch.allclose(matrix.sum(1), resolve_class_prior(prior, counts.sum(1)), rtol=0, atol=1e-14)
    assert bool((smooth_confusion(counts, prior) > 0).all())


def test_mean_recall_survives_smoothing_at_a_thousand_classes():
    """20 images a class, recall .6: the smoothed mean recall is (12 + .5) / 21, where one sample a cell gives .013."""
    num_classes = 1000
    counts = torch.diag(torch.full((num_classes,), 12)) + torch.diag(torch.full((num_classes - 1,), 8), 1)
    counts[-1, 0] = 8
    smoothed = smooth_confusion(counts)
    recall = (smoothed.diagonal() / smoothed.sum(1)).mean()
    assert float(recall) == pytest.approx(12.5 / 21, abs=1e-12)
    add_one = ((counts + 1).diagonal() / (counts + 1).sum(1)).mean()
    assert float(add_one) < 0.02

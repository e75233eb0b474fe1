"""Intervals of the change between two predictions, by hand."""

import numpy as np
import pytest
import torch

from selmix_hf.method.confusion import confusion_counts
from selmix_hf.reports.bootstrap import paired_bootstrap
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.reports.registry import METRICS, Place


def test_the_bootstrap_of_equal_predictions_is_zero():
    labels = np.arange(10).repeat(5) % 5
    predicted = (labels + (np.arange(50) % 3 == 0)) % 5
    names = {name for name, metric in METRICS.items() if metric.place is Place.KEY}
    assert paired_bootstrap(labels, predicted, predicted, 5, num_resamples=20) == dict.fromkeys(names, (0, 0, 0))


def test_the_bootstrap_interval_of_mean_recall_is_the_binomial_one():
    """60 and 80 of 100 right in each of two classes, the same 60: the change is the mean of indicators."""
    labels = np.arange(2).repeat(100)
    place = np.tile(np.arange(100), 2)
    before, after = (np.where(place < right, labels, 1 - labels) for right in (60, 80))
    change, low, high = paired_bootstrap(labels, before, after, 2, num_resamples=2000)["mean_recall"]
    half = 1.96 * np.sqrt(0.2 * 0.8 / 200)
    assert change == pytest.approx(0.2)
    assert (low, high) == (pytest.approx(0.2 - half, abs=0.01), pytest.approx(0.2 + half, abs=0.01))


def test_the_bootstrap_averages_seeds():
    labels = np.arange(2).repeat(10)
    wrong = 1 - labels
    change = paired_bootstrap(labels, [wrong, wrong], [labels, wrong], 2, num_resamples=10)["mean_recall"]
    assert change == (0.5, 0.5, 0.5)


def test_the_bootstrap_measures_what_the_report_does():
    """The change, from hits and predictions a class, against the reports of the confusion matrices."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(6), [3, 9, 20, 5, 7, 40]))
    before, after = (np.where(random.random(84) < right, labels, random.integers(0, 6, 84)) for right in (0.6, 0.8))
    frequency = {"train_counts": [300, 200, 50, 40, 5, 1], "tail_share": 0.02, "worst_share": 0.4}
    reports = [
        classification_metrics(confusion_counts(torch.as_tensor(labels), torch.as_tensor(predicted), 6), **frequency)
        for predicted in (before, after)
    ]
    intervals = paired_bootstrap(labels, before, after, 6, num_resamples=5, **frequency)
    assert set(intervals) == METRICS.keys() - {"accuracy", "classes_measured", "macro_f1", "balanced_macro_f1"}
    for name in intervals:
        assert intervals[name][0] == pytest.approx(reports[1][name] - reports[0][name], abs=1e-12)


def test_a_class_without_test_samples_is_refused():
    with pytest.raises(ValueError, match="the test set has no sample of 1 of 3 classes: 2"):
        paired_bootstrap([0, 1, 1], [0, 1, 1], [0, 1, 1], 3)

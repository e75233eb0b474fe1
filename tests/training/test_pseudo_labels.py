"""Pseudo-labels: which are used, what is told of them, and that true ones are never seen in a run."""

import math

import numpy as np
import pytest

from selmix_hf.training.pseudo_labels import choose, pseudo_label_report, second_labels

PREDICTED = np.array([0, 0, 0, 0, 1, 1, 2])
CONFIDENCE = np.array([0.9, 0.5, 0.99, 0.7, 0.4, 0.6, 0.3])


def test_threshold():
    assert choose(PREDICTED, CONFIDENCE, 0.6).tolist() == [0, -1, 0, 0, -1, 1, -1]
    assert choose(PREDICTED, CONFIDENCE).tolist() == PREDICTED.tolist()


def test_a_share_of_each_class():
    """Half of four, of two and of one, rounded up: 2, 1, 1."""
    assert choose(PREDICTED, CONFIDENCE, share=0.5).tolist() == [0, -1, 0, -1, -1, 1, 2]
    assert choose(PREDICTED, CONFIDENCE, 0.5, 0.5).tolist() == [0, -1, 0, -1, -1, 1, -1]


def test_classes_without_unlabelled_samples_fall_back_to_the_labelled():
    pseudo, labels = np.array([0, -1, 2]), np.array([0, 1, 1, 2])
    assert second_labels(pseudo, labels, 3).tolist() == [0, -1, 2, -1, 1, 1, -1]
    assert second_labels(pseudo, labels, 3, views=2).tolist() == [0, -1, 2] * 2 + [-1, 1, 1, -1] * 2


def test_report():
    labels, before = np.array([0, 0, 1, -1]), np.array([0, 1, -1, 2])
    report = pseudo_label_report(labels, before, ["a", "b", "c"], np.array([0, 1, 1, 2]))
    assert report == {
        "pseudo_labels_used": 0.75,
        "pseudo_label_missing": 1,
        "pseudo_label_agreement": 0.5,  # of two that were used both times
        "pseudo_label_accuracy": pytest.approx(2 / 3),
        "pseudo_label_worst_recall": 0,
        "pseudo_labels/a": 2,
        "pseudo_labels/b": 1,
        "pseudo_labels/c": 0,
    }
    none = pseudo_label_report(np.full(2, -1), np.array([0, 0]), ["a", "b"])
    assert math.isnan(none["pseudo_label_agreement"]) and none["pseudo_labels_used"] == 0
    assert "pseudo_labels/a" not in pseudo_label_report(labels, None, [str(k) for k in range(101)])

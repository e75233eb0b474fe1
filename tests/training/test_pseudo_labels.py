"""Which pseudo-labels are used, and what is told of them; on numbers worked out by hand."""

import math

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from selmix_hf.data.seeded import fetch
from selmix_hf.data.unlabelled import Unlabelled
from selmix_hf.method.draws import ClassIndex
from selmix_hf.models.averages import WeightAverage
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


def test_samples_that_are_not_used_are_never_drawn():
    index = ClassIndex([-1, 1, 0, -1, 1], 3)
    assert index.counts.tolist() == [1, 2, 0]
    drawn = index.draw(np.array([0, 1] * 50), np.random.default_rng(0))
    assert set(drawn[::2]) == {2} and set(drawn[1::2]) == {1, 4}
    with pytest.raises(ValueError, match="class 2 was drawn but has no sample"):
        index.draw(np.array([2]), np.random.default_rng(0))


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


@pytest.mark.parametrize("column", ["label", "class"])
def test_no_label_reaches_a_collator(column):
    dataset = Unlabelled(tiny.images((2, 2, 1, 1)), [column])
    assert [sample[column] for sample in fetch(dataset, [5, 0, 3])] == [0, 0, 0]
    assert dataset[5][column] == 0
    images = [sample["image"] for sample in fetch(dataset, [5, 0])]
    assert images[0].tobytes() == tiny.images((2, 2, 1, 1))[5]["image"].tobytes()
    own = Unlabelled([{"x": 1, "labels": 3}], ["label"])
    assert own[0] == {"x": 1, "labels": 0, "label": 0}
    pairs = Unlabelled([("x", 3), ["y", 2]])
    assert [pairs[0], *fetch(pairs, [1])] == [("x", 0), ("y", 0)]
    assert Unlabelled(["x", "y"])[1] == ("y", 0)


def test_weight_average_by_hand():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    average = WeightAverage(layer.state_dict)
    for value in (2.0, 3.0):
        layer.weight.data.fill_(value)
        average.update(0.9)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3
    with average.in_place():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 3
    again = WeightAverage(layer.state_dict)
    again.load(average.tensors)
    assert torch.equal(again.tensors["weight"], average.tensors["weight"])

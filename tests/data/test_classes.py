"""Class names of models and datasets: held against each other, found, given on."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from datasets import Dataset
from miniature import save_checkpoint
from torch import nn
from transformers import AutoModelForImageClassification

from selmix_hf.data.classes import (
    class_name,
    first_misplaced,
    label_column_of,
    names_of_column,
    names_of_data,
    read_labels,
    resolve_class_names,
    set_class_names,
)


class Plain(torch.utils.data.Dataset):
    """A dataset that is not of the datasets library."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"x": torch.zeros(2), "labels": self.labels[index]}


def model(names=None, num_classes=4):
    made = tiny.model("convnext", num_classes)
    if names:
        made.config.id2label = dict(enumerate(names))
    return made


@pytest.mark.parametrize(
    ("names", "others", "expected"),
    [
        (["a", "b", "c"], ["a", "c", "b"], 1),
        (["a", "b", "c"], ["c", "b", "a"], 0),
        (["a", "b", "c"], ["A", "b", "C"], None),  # the same order in other letters
        (["a", "b", "c"], ["A", "C", "B"], 1),
        (["a", "b", "c"], ["a", "d", "b"], None),  # other names: which is which, nobody knows
        (["a", "b"], ["b", "a", "c"], None),
        ([], [], None),
    ],
)
def test_the_first_place_where_the_same_names_stand_in_another_order(names, others, expected):
    assert first_misplaced(names, others) == expected


def test_names_of_any_dataset():
    images = tiny.images((1, 1, 1, 1))
    assert names_of_data(images, None) == names_of_data(images, "label") == names_of_column(images, None)
    assert names_of_data(images, "label") == list(tiny.NAMES)
    assert names_of_data(images, "image") == []
    assert names_of_data(SimpleNamespace(classes=["x", 3]), None) == ["x", "3"]
    numbers = Dataset.from_dict({"label": [0, 1]})
    assert names_of_data(numbers, "label") == [] and names_of_column(numbers, "label") is None


def test_a_class_is_named_where_it_has_a_name():
    assert class_name(1, ["ant", "bee"]) == "'bee' (1)"
    assert class_name(2, ["ant", "bee"]) == "2" == class_name(2, None)


def test_names_are_given_to_a_config_in_every_form_it_has():
    config, wrapped = SimpleNamespace(), SimpleNamespace(label_names=["x"])
    for given in (config, wrapped):
        set_class_names(given, ("a", "b"))
        assert given.id2label == {0: "a", 1: "b"} and given.label2id == {"a": 0, "b": 1}
    assert wrapped.label_names == ["a", "b"] and not hasattr(config, "label_names")


def test_a_trained_model_keeps_no_class_names_of_its_checkpoint(tmp_path):
    """Loaded the customary way, a timm model keeps the label_names of the checkpoint and would save those."""
    save_checkpoint(tmp_path / "old", ["a", "b"])
    names = {"id2label": dict(enumerate(tiny.NAMES)), "label2id": {name: k for k, name in enumerate(tiny.NAMES)}}
    model = AutoModelForImageClassification.from_pretrained(
        tmp_path / "old", num_labels=4, ignore_mismatched_sizes=True, **names
    )
    tiny.trainer(tmp_path / "out", model, max_steps=1).save_model()
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.id2label == names["id2label"]


def test_labels_of_any_dataset():
    assert read_labels(tiny.images((2, 1, 1, 1)), "set", None, 4, list("abcd")).tolist() == [0, 0, 1, 2, 3]
    assert read_labels(Plain([1, 0, 1]), "set", None, 2, ["a", "b"]).tolist() == [1, 0, 1]
    assert read_labels(Plain([1, 1]), "set", None, 2, ["a", "b"], all_classes=False).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (
            [0, 1, 2],
            "the set: the model has 2 classes, but there is a label 2. Load the model with num_labels=3,",
        ),
        ([0.5, 1.0], "the set: .*not integer"),
        ([0, -1], "the set: .*-1"),
        ([1, 1, 1], "the set has no sample of 1 of 2 classes: .*cat"),
        ([], "the set is empty"),
    ],
)
def test_bad_labels(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_labels(Plain(labels), "the set", "labels", 2, ["cat", "dog"])


def test_label_column():
    data = tiny.images((1, 1, 1, 1))
    assert label_column_of(data, None) == "label"
    assert label_column_of(data.rename_column("label", "kind"), None) == "kind"
    assert label_column_of(data.with_transform(lambda rows: {"other": rows["label"]}), "other") == "other"
    with pytest.raises(ValueError, match="no column 'other' in the dataset; it has image, label"):
        label_column_of(data, "other")
    assert label_column_of(Plain([0, 1]), None) == "labels"
    with pytest.raises(ValueError, match="no label column found among x"):
        label_column_of(Dataset.from_dict({"x": ["a"]}), None)


def test_names_of_the_dataset_are_given_to_a_model_without_names():
    plain = model()
    assert resolve_class_names(plain, tiny.images(), "label", 4) == list(tiny.NAMES)
    assert plain.config.id2label == dict(enumerate(tiny.NAMES))
    assert plain.config.label2id == {name: k for k, name in enumerate(tiny.NAMES)}


def test_a_model_keeps_its_own_names():
    own = ["rouge", "vert", "bleu", "gris"]
    assert resolve_class_names(model(own), tiny.images(), "label", 4) == own
    assert resolve_class_names(model(["Red", "Green", "Blue", "Grey"]), tiny.images(), "label", 4)[0] == "Red"


def test_another_order_is_refused():
    with pytest.raises(ValueError, match="class 0 is 'green' in the model and 'red' in the dataset.*align_labels"):
        resolve_class_names(model(["green", "red", "blue", "grey"]), tiny.images(), "label", 4)


def test_the_advice_of_the_refusal_helps():
    mixed = model(["green", "red", "blue", "grey"])
    mixed.config.label2id = {"green": 0, "red": 1, "blue": 2, "grey": 3}
    aligned = tiny.images().align_labels_with_mapping(mixed.config.label2id, "label")
    assert resolve_class_names(mixed, aligned, "label", 4) == ["green", "red", "blue", "grey"]


def test_one_output_is_not_a_classifier():
    with pytest.raises(ValueError, match="the model has 1 output: SelMix needs a classifier with at least two"):
        resolve_class_names(nn.Linear(1, 1), Plain([0]), "labels", 1)


@pytest.mark.parametrize(("names", "whose"), [(tiny.NAMES, "the model"), (list("abcd"), "train_dataset")])
def test_another_order_of_a_second_set_is_refused(names, whose):
    other = tiny.images((1, 1, 1, 1), names=("green", "red", "blue", "grey"))
    sentence = f"{whose} and gain_dataset have the same classes in another order: class 0 is 'red' in {whose} and 'gre"
    with pytest.raises(ValueError, match=sentence):
        read_labels(other, "gain_dataset", "label", 4, list(names), like=tiny.images())
    assert len(read_labels(tiny.images(), "gain_dataset", "label", 4, list(names), like=tiny.images())) == 57


def test_a_model_with_too_many_outputs():
    sentence = (
        "set: the model has 9 outputs, but the dataset names 4 classes. Load the model with num_labels=4, ignore_m"
    )
    with pytest.raises(ValueError, match=sentence):
        read_labels(tiny.images(), "set", "label", 9, list("abcdefghi"))

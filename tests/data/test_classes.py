"""Class names of models and datasets: held against each other, found, given on."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features
from miniature import save_checkpoint
from torch import nn
from transformers import AutoModelForImageClassification

from selmix_hf.data.classes import (
    Numbering,
    class_name,
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


@pytest.mark.parametrize(
    "own",
    [["Red", "Green", "Blue", "Grey"], ["rouge", "green", "bleu", "gris"], ["green", "red", "blue", "grey"]],
)
def test_a_model_keeps_names_of_which_the_data_have_some(own):
    assert resolve_class_names(model(own), tiny.images(), "label", 4) == own


def test_a_model_that_names_other_classes_gets_those_of_the_data(caplog):
    other = model(["cat", "dog", "owl", "elm"])
    assert resolve_class_names(other, tiny.images(), "label", 4) == list(tiny.NAMES)
    assert other.config.id2label == dict(enumerate(tiny.NAMES))
    assert "4 names (cat, dog, owl, elm) and train_dataset 4 names (red, green, blue, grey): other" in caplog.text


def test_numbers_are_no_names():
    own = ["cat", "dog", "owl", "elm"]
    assert resolve_class_names(model(own), tiny.images(names=list("0123")), "label", 4) == own


def test_a_new_head_has_no_names():
    """Such as one of a checkpoint with as many other classes, some of them under the same names."""
    own = ["green", "dog", "red", "elm"]
    made = model(own)
    made.classifier.bias.data[0] = 1.0
    with pytest.raises(ValueError, match="'red' is class 2 of .* and class 0 of .*, and 'blue' is not one class of"):
        Numbering(made, tiny.images(), "label", 4).of(tiny.images(), "train_dataset")
    made.classifier.bias.data.zero_()
    assert resolve_class_names(made, tiny.images(), "label", 4) == list(tiny.NAMES)


@pytest.mark.parametrize("order", [["grey", "Red", "blue", "green"], [3, 0, 2, 1]])
def test_an_order_that_is_given(order):
    made, data = model(), tiny.images((1, 1, 1, 1))
    numbering = Numbering(made, data, "label", 4, order)
    assert numbering.names == ["grey", "red", "blue", "green"] == list(made.config.id2label.values())
    assert [row["label"] for row in numbering.of(data, "train_dataset")] == [1, 3, 2, 0]
    unnamed = Dataset.from_dict({"label": [0, 1, 2, 3]})
    assert numbering.of(unnamed, "eval_dataset").labels.tolist() == [1, 3, 2, 0]  # numbered as train_dataset
    assert Numbering(made, unnamed, "label", 4, [3, 0, 2, 1]).of(unnamed, "train_dataset").labels.tolist() == [
        1,
        3,
        2,
        0,
    ]


@pytest.mark.parametrize(
    "order", [["red", "green", "blue"], ["red", "green", "blue", "sky"], [0, 1, 2, 4], [0, 0, 1, 2]]
)
def test_an_order_that_is_none(order):
    with pytest.raises(
        ValueError, match=r"class_order must have each of 4 names \(red, green, blue, grey\) of train_d"
    ):
        resolve_class_names(model(), tiny.images((1, 1, 1, 1)), "label", 4, order)


def test_one_output_is_not_a_classifier():
    with pytest.raises(ValueError, match="the model has 1 output: SelMix needs a classifier with at least two"):
        resolve_class_names(nn.Linear(1, 1), Plain([0]), "labels", 1)


def test_labels_in_a_subset_have_the_names_of_the_whole():
    whole = Plain([0, 1, 1])
    whole.classes = ["dog", "cat"]
    subset = torch.utils.data.Subset(whole, [0, 2])
    assert names_of_data(subset, None) == ["dog", "cat"]
    named = model(["cat", "dog"], 2)
    assert Numbering(named, subset, "labels", 2).of(subset, "train_dataset").labels.tolist() == [1, 0]


def test_a_model_with_too_many_outputs():
    sentence = (
        "set: the model has 9 outputs, but the dataset names 4 classes. Load the model with num_labels=4, ignore_m"
    )
    with pytest.raises(ValueError, match=sentence):
        read_labels(tiny.images(), "set", "label", 9, list("abcdefghi"))


def test_a_model_of_more_classes_than_the_data_name():
    many = model(["sky", "blue", "green", "grey", "red"], 5)
    data = Numbering(many, tiny.images(), "label", 5).of(tiny.images(), "train_dataset")
    with pytest.raises(
        ValueError, match="the model has 5 outputs, but the dataset names 4 classes. Load the model with"
    ):
        read_labels(data, "train_dataset", "label", 5, list("abcde"))


def test_where_nobody_else_has_names_the_first_set_that_has_them_counts():
    made = model(num_classes=2)
    numbering = Numbering(made, Plain([0, 1]), "labels", 2)
    named = [
        Dataset.from_dict({"labels": [0, 1]}, Features({"labels": ClassLabel(names=own)})) for own in ("ab", "ba")
    ]
    assert numbering.of(named[0], "gain_dataset") is named[0] and made.config.id2label == {0: "a", 1: "b"}
    assert numbering.of(named[1], "eval_dataset").labels.tolist() == [1, 0]


def test_names_in_an_attribute_of_any_form():
    for classes in (np.array(["a", "b"]), {"b": 1, "a": 0}, ("a", "b")):
        assert names_of_data(SimpleNamespace(classes=classes), None) == ["a", "b"]
    assert names_of_data(SimpleNamespace(classes=[("tench", "Tinca tinca"), "shark"]), None) == [
        "tench, Tinca tinca",
        "shark",
    ]
    assert names_of_data(SimpleNamespace(classes=7), None) == []


def test_parts_of_a_concatenation():
    whole = torch.utils.data.ConcatDataset([tiny.images((1, 1, 1, 1))] * 2)
    assert names_of_data(whole, "label") == list(tiny.NAMES)
    whole.datasets.append(tiny.images((1, 1, 1, 1), names=list("abcd")))
    with pytest.raises(TypeError, match="parts of a ConcatDataset name their classes differently"):
        names_of_data(whole, "label")


def test_a_stream_is_read_by_number_or_refused():
    numbering = Numbering(model(["red", "green", "blue", "grey"]), tiny.images(), "label", 4)
    stream = tiny.images((1, 1, 1, 1)).to_iterable_dataset()
    assert numbering.of(stream, "eval_dataset") is stream
    other = tiny.images((1, 1, 1, 1), names=["green", "red", "blue", "grey"]).to_iterable_dataset()
    with pytest.raises(ValueError, match="eval_dataset is a stream whose classes, .*, stand at other numbers"):
        numbering.of(other, "eval_dataset")


def test_an_order_in_numbers_and_a_set_with_names():
    """Its numbers are those of train_dataset."""
    unnamed, named = Dataset.from_dict({"label": [0, 1, 2, 3]}), tiny.images((1, 1, 1, 1))
    numbering = Numbering(model(), unnamed, "label", 4, np.array([3, 0, 2, 1]))
    assert numbering.of(unnamed, "train_dataset").labels.tolist() == [1, 3, 2, 0]
    assert numbering.of(named, "eval_dataset").labels.tolist() == [1, 3, 2, 0]
    assert numbering.names == ["grey", "red", "blue", "green"]
    assert numbering.of(numbering.of(unnamed, "train_dataset"), "train_dataset").labels.tolist() == [1, 3, 2, 0]


def test_a_set_is_renumbered_once(caplog):
    numbering = Numbering(model(["grey", "blue", "green", "red"]), tiny.images(), "label", 4)
    assert numbering.of(data := tiny.images((1, 1, 1, 1)), "eval_dataset") is numbering.of(data, "eval_dataset")
    assert caplog.text.count("Its labels are read by name") == 1

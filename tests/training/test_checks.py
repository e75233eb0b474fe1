"""The sentences for bad input, checked without a trainer."""

import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict
from torch import nn

from selmix_hf.data.classes import label_column_of, read_labels, resolve_class_names
from selmix_hf.training.checks import check_datasets


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


def test_what_is_missing():
    data = tiny.images((1, 1, 1, 1))
    with pytest.raises(ValueError, match="needs train_dataset"):
        check_datasets(None, data, None)
    with pytest.raises(ValueError, match="never give the test set.$"):
        check_datasets(data, None, None)
    with pytest.raises(ValueError, match="never give the test set. eval_dataset only monitors and selects.$"):
        check_datasets(data, None, data)
    with pytest.raises(ValueError, match="gain_dataset is empty"):
        check_datasets(data, data.select([]), None)
    with pytest.raises(TypeError, match="train_dataset is a IterableDataset: a streaming dataset has no random"):
        check_datasets(data.to_iterable_dataset(), data, None)
    for other, found in ((DatasetDict(a=data, b=data), r"several \(a, b\): give one"), ("cifar10", "'cifar10'")):
        with pytest.raises(TypeError, match=f"train_dataset must be one dataset that is loaded, found {found}"):
            check_datasets(other, data, None)
    check_datasets(data, data, None)


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

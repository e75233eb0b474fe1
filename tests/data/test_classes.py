"""Class names of models and datasets: held against each other, found, given on."""

from types import SimpleNamespace

import pytest
import tiny
from datasets import Dataset
from miniature import save_checkpoint
from transformers import AutoModelForImageClassification

from selmix_hf.data.classes import class_name, first_misplaced, names_of_column, names_of_data, set_class_names


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

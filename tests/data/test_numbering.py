"""One name is one class, whatever number a dataset gives it."""

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Value

from selmix_hf.data.labels import class_labels
from selmix_hf.data.numbering import (
    Renumbered,
    are_numbers,
    at_two_numbers,
    class_names_in,
    folded,
    new_numbers,
    numbers_by_name,
    renumbered,
    require_same_in_items,
    with_classes_of,
)


def test_names_are_compared_without_case_spaces_underscores_and_hyphens():
    assert folded(["Great-white_shark", "ox"]) == [["greatwhiteshark", "ox"]]
    assert folded(["1_0", "10"], [" a", "B"]) == [["1_0", "10"], ["a", "B"]]  # two classes stay two


@pytest.mark.parametrize(
    ("names", "own", "expected"),
    [
        ("abc", "abc", []),
        ("abc", "acb", [1, 2]),
        ("abc", "ABC", []),
        ("abc", "CBA", [0, 2]),
        ("abc", "adb", [2]),
        ("abc", "xyz", []),
        ("ab", "abc", []),
        ("abc", "cab", [0, 1, 2]),
        ("abc", "b", [0]),
        ("aba", "aba", []),  # ImageNet has two cranes
        ("aba", "aab", [1, 2]),
    ],
)
def test_names_at_two_numbers(names, own, expected):
    assert at_two_numbers(list(names), list(own)) == expected


def test_numbers_by_name():
    names, own = ["blue", "green", "grey", "red"], ["Green", "gr-ey", "red", "sky"]
    assert numbers_by_name(names, own, np.array([1, 1, 1, 0], bool)).tolist() == [1, 2, 3, -1]
    with pytest.raises(
        ValueError, match="'Green' is class 1 of .*blue, green.* and class 0 of .*, and 'sky' is not one"
    ):
        numbers_by_name(names, own)
    with pytest.raises(ValueError, match="'a' is not one class of both"):
        numbers_by_name(list("aba"), list("aab"))


def test_numbers_are_the_names_of_nothing():
    assert are_numbers(["0", "1"]) and not are_numbers(["0", "1", "10", "2"])


def test_what_is_said(caplog):
    labels_N = np.array([0, 1, 2])
    assert new_numbers(labels_N, "eval_dataset", list("abc"), list("cab")).tolist() == [2, 0, 1]
    assert (
        "eval_dataset numbers its classes otherwise than the model: 'c' is 0 there and 2 here, 'a' is" in caplog.text
    )
    assert new_numbers(labels_N, "eval_dataset", list("abc"), list("azc")) is None
    assert "other names than the model for 1 of 3 classes: class 1 is 'z' there and 'b' here. Its" in caplog.text
    caplog.clear()
    assert new_numbers(labels_N, "eval_dataset", list("abc"), list("012")) is None and not caplog.text
    assert new_numbers(labels_N[:1], "eval_dataset", list("abc"), list("acb")) is None  # no sample of b and c
    with pytest.raises(
        ValueError, match="eval_dataset and the model number their classes differently: 'b' is .*cast_c"
    ):
        new_numbers(labels_N, "eval_dataset", list("abc"), list("bcd"))
    with pytest.raises(ValueError, match="eval_dataset has a label 2, but names 2 names"):
        new_numbers(labels_N, "eval_dataset", list("abc"), list("ba"))


class Pairs(torch.utils.data.Dataset):
    """As torchvision's datasets are."""

    classes, targets = ("dog", "cat"), (0, 1, 1)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((2,), index), self.targets[index]


def test_a_dataset_of_pairs_by_other_numbers():
    pairs = renumbered(Pairs(), "eval_dataset", ["cat", "dog"], Pairs.classes, None)
    assert isinstance(pairs, Renumbered) and pairs.classes == ["cat", "dog"] and len(pairs) == 3
    assert [label for _, label in pairs.__getitems__([0, 1, 2])] == class_labels(pairs).tolist() == [1, 0, 0]
    assert int(pairs[2][0][0]) == 2
    assert renumbered(Pairs(), "eval_dataset", ["dog", "cat"], Pairs.classes, None).targets == (0, 1, 1)


@pytest.mark.parametrize("column", ["label", "species"])
def test_a_dataset_of_columns_by_other_numbers(column):
    data = tiny.images((1, 2, 1, 1))
    data = data if column == "label" else data.rename_column("label", column)
    names = ["grey", "blue", "green", "red"]
    found = renumbered(data, "eval_dataset", names, list(tiny.NAMES), column)
    assert class_labels(found, column).tolist() == [row[column] for row in found] == [3, 2, 2, 1, 0]
    assert found[1]["image"] == data[1]["image"] and found._fingerprint == data._fingerprint
    made = data.with_transform(lambda rows: {"pixel_values": rows["image"], "labels": rows[column]})
    assert renumbered(made, "eval_dataset", names, list(tiny.NAMES), column)[4]["labels"] == 0


def named(column, names, labels):
    return Dataset.from_dict(
        {column: labels, "x": labels}, Features({column: ClassLabel(names=names), "x": Value("int8")})
    )


def test_a_split_gets_the_classes_of_another():
    train, test = named("kind", ["a", "b", "c"], [0]), named("kind", ["b", "a"], [0, 1, 0])
    found = with_classes_of(test, "test", train.features, "train")
    assert class_names_in(found.features) == {"kind": ["a", "b", "c"]} and found.column_names == ["kind", "x"]
    assert found["kind"][:] == [1, 0, 1] and found["x"][:] == [0, 1, 0]
    assert with_classes_of(train, "train", train.features, "train").features == train.features
    with pytest.raises(ValueError, match=r"test has samples of 'd', but train names 3 names \(a, b, c\)"):
        with_classes_of(named("kind", ["a", "b", "c", "d"], [3]), "test", train.features, "train")


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_a_new_number_is_of_the_old_ones_type(form):
    data = tiny.images((1, 1, 1, 1)).with_format(form)
    label = renumbered(data, "eval_dataset", ["grey", "blue", "green", "red"], list(tiny.NAMES), "label")[3]["label"]
    assert type(label) is type(data[3]["label"]) and int(label) == 0


class Items(torch.utils.data.Dataset):
    """Items of any kind beside the classes that the attributes tell."""

    def __init__(self, make, classes=("dog", "cat")):
        self.make, self.classes, self.targets = make, classes, [0, 1, 1]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.make(self.targets[index])


def test_items_without_a_class_that_can_be_found_are_refused():
    for make in (lambda label: (torch.zeros(2), label, "a.png"), lambda label: {"x": torch.zeros(2), "y": label}):
        with pytest.raises(ValueError, match="its items have no class where it can be renumbered: give pairs"):
            renumbered(Items(make), "eval_dataset", ["cat", "dog"], ["dog", "cat"], None)
        require_same_in_items(Items(make), np.array([0, 1, 1]), "set", None)  # a collator of the user's finds it


def test_items_of_other_classes_than_the_labels_are_refused():
    """Such as by torchvision's target_transform, which `targets` does not know of."""
    other = Items(lambda label: (torch.zeros(2), 1 - label))
    with pytest.raises(ValueError, match="set: the item of row 0 has class 1, its labels say 0: a transform gives"):
        require_same_in_items(other, np.array([0, 1, 1]), "set", None)
    with pytest.raises(ValueError, match="the item of row 0 has class 1"):
        renumbered(other, "eval_dataset", ["cat", "dog"], ["dog", "cat"], None)
    made = tiny.images((1, 1, 1, 1)).with_transform(
        lambda rows: {"x": rows["image"], "labels": [3 - k for k in rows["label"]]}
    )
    with pytest.raises(ValueError, match="the item of row 0 has class 3"):
        require_same_in_items(made, np.arange(4), "set", "label")
    soft = Items(lambda label: (torch.zeros(2), torch.tensor([0.5, 0.5])))
    require_same_in_items(soft, np.array([0, 1, 1]), "set", None)

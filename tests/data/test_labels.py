"""Which column holds the class, how labels are read and what is refused, and which rows are of which class."""

import numpy as np
import pytest
import tiny
import torch
from animals import NAMES, OPTIONS, forbidden, labelled
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, Sequence, Value
from memory import peak_below
from torch.utils.data import Subset
from torch_datasets import Tuples

from selmix_hf.data.examples import class_of
from selmix_hf.data.held_out import hold_out
from selmix_hf.data.labels import class_labels, first_of_each, infer_label_column, whole
from selmix_hf.data.long_tail import long_tailed_split, make_long_tailed


def test_infer_label_column() -> None:
    classes, number = ClassLabel(names=NAMES), Value("int64")

    def infer(**features: object) -> str:
        return infer_label_column(Dataset.from_dict({name: [] for name in features}, features=Features(features)))

    assert infer(img=Value("string"), species=classes) == "species"
    assert infer(id=number, labels=number) == "labels"
    assert infer(id=number, fine_label=classes) == "fine_label"
    assert infer(domain=classes, label=number) == "label"
    with pytest.raises(ValueError, match="fine_label, coarse_label all could; pass label_column"):
        infer(fine_label=classes, coarse_label=classes)
    lists, one, large = Sequence(number), Sequence(number, length=1), LargeList(number)
    assert infer(labels=lists, species=classes) == "species" == infer(targets=large, species=classes)
    assert infer(label=lists) == infer(label=one) == infer(label=lists, targets=lists) == "label"
    assert infer(label=one, species=classes) == "label"
    with pytest.raises(ValueError, match="no label column found among id, text"):
        infer(id=number, text=Value("string"))


def test_labels_are_read_without_running_the_transform(dataset: Dataset) -> None:
    transformed = dataset.with_transform(forbidden)
    with pytest.raises(AssertionError, match="the transform ran"):
        transformed["label"][0]
    labels = class_labels(transformed)
    assert labels.dtype == np.int64 and labels.tolist() == dataset["label"][:]
    assert class_labels(transformed.select([5, 2])).tolist() == [3, 2]
    assert class_labels(dataset.select([])).shape == (0,)
    splits = make_long_tailed(transformed, **OPTIONS, key_column="name")
    assert len(splits["train"]) == 26
    with pytest.raises(AssertionError, match="the transform ran"):  # which the splits keep
        splits["train"][0]


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        (
            [0, 1, -1, -1],
            None,
            "must be 0 or more, below 1,000,000 without names; 2 are not, the first is -1 in row 2",
        ),
        ([0, -1], NAMES, "must be 0 to 3; 1 are not"),
        ([0, None], NAMES, "missing in places"),
    ],
)
def test_unusable_labels(values: list, names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_labels(labelled(values, names))


def test_columns_that_are_no_labels() -> None:
    dataset = Dataset.from_dict({"text": ["a"], "many": [[1, 2]], "score": [0.5]})
    for column in ("text", "score"):
        with pytest.raises(ValueError, match=f"column '{column}' holds .*, not an integer class"):
            class_labels(dataset, column)
    with pytest.raises(ValueError, match=r"expected one label a row, 1 in all; 'many' has shape \[1, 2\]"):
        class_labels(dataset, "many")
    with pytest.raises(ValueError, match="must be 0 to 1; 1 are not, the first is 2 in row 1"):
        long_tailed_split([0, 2], label_names=["a", "b"])
    with pytest.raises(ValueError, match="not integers"):
        long_tailed_split([0.0, 1.0])


def test_streaming_and_several_datasets_are_refused(dataset: Dataset) -> None:
    streaming = dataset.to_iterable_dataset()
    with pytest.raises(TypeError, match="no random access.*streaming=True.*Dataset.from_list"):
        class_labels(streaming)
    with pytest.raises(TypeError, match="expected one dataset, got several: pass one of 'train', 'test'"):
        class_labels(DatasetDict({"train": dataset, "test": dataset}))
    for function in (make_long_tailed, infer_label_column):
        with pytest.raises(TypeError, match="not streaming.*got a IterableDataset"):
            function(streaming)


class MapStyle:
    """What torchvision users have."""

    def __init__(self, items: list, **attributes: object) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.items[i]


def test_other_map_style_datasets() -> None:
    items = [{"label": 2, "coarse": 0}, {"label": 1, "coarse": 1}]
    assert class_labels(MapStyle(items)).tolist() == [2, 1]
    assert class_labels(MapStyle(items), "coarse").tolist() == [0, 1]
    assert class_labels(MapStyle(items, coarse=[5, 6]), "coarse").tolist() == [5, 6]
    assert class_labels(MapStyle([(None, 7)], targets=[4])).tolist() == [4]
    assert class_labels(MapStyle([(None, 7)], labels=np.array([3], np.uint8))).dtype == np.int64
    with pytest.raises(TypeError, match="cannot read the labels of a MapStyle.*no field coarse"):
        class_labels(MapStyle([(None, 7)]), "coarse")
    with pytest.raises(ValueError, match=r"one label a row, 2 in all; 'targets' has shape \[3\]"):
        class_labels(MapStyle(items, targets=[0, 1, 2]))
    with pytest.raises(ValueError, match="not integers"):
        class_labels(MapStyle([{"label": "cat"}]))


def test_numbers_that_are_not_whole_are_no_classes() -> None:
    assert [whole(value) for value in (2, 2.0, np.array([2]), torch.tensor(2), np.uint8(2))] == [2] * 5
    for value in (0.7, torch.tensor(0.7), float("nan"), float("inf"), None, "2"):
        with pytest.raises(ValueError, match="must be an integer, found"):
            whole(value)
    with pytest.raises(ValueError, match="must be an integer, found 0.5"):
        class_labels(MapStyle([(None, 1.0), (None, 0.5)]))
    with pytest.raises(ValueError, match=r"labels in 'label' must be integers, found 0.5"):
        class_of({"label": 0.5}, "label")


def test_labels_of_a_subset_load_no_image(monkeypatch):
    monkeypatch.delattr(Tuples, "__getitem__")
    assert class_labels(Subset(Tuples(), [0, 56, 31, 50, 2])).tolist() == [0, 3, 1, 2, 0]


def test_labels_of_a_subset_are_read_without_decoding_an_image():
    dataset = tiny.images((3, 2, 2, 2)).with_transform(lambda batch: 1 / 0)
    assert class_labels(Subset(dataset, [8, 0, 3]), "label").tolist() == [3, 0, 1]
    assert class_labels(Subset(dataset, [8, 0, 3])).tolist() == [3, 0, 1]


def test_a_subset_may_leave_unlabelled_rows_out():
    whole = Tuples((2, 1, 1, 1))
    whole.targets = [0, 0, -1, -1, 3]
    assert class_labels(Subset(whole, [0, 4])).tolist() == [0, 3]


def test_labels_of_pairs_that_are_lists():
    assert class_labels([["image", 2], ["image", 0]]).tolist() == [2, 0]


def test_labels_of_tuples_without_an_attribute():
    tuples = Tuples((2, 1, 1, 1))
    assert class_labels([tuples[i] for i in range(5)]).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1, 2], [4, 3, 2]),  # in the order of the rows, one class after the other
        ([2, 1], [4, 1, 3]),
        ([0, 9], [3, 2]),  # as many as there are
        (np.array([1, 1, 5]), [4, 3]),  # no row of class 2
    ],
)
def test_the_first_rows_of_each_class(counts, expected):
    rows, labels = np.array([4, 3, 2, 1]), np.array([1, 0, 1, 1, 0])
    assert first_of_each(rows, labels, counts).tolist() == expected


def test_a_label_without_names_cannot_ask_for_gigabytes():
    """In whatever is counted by class."""
    dataset = Dataset.from_dict({"label": [0, 1, 1, 10**9] * 20})
    for call in (
        class_labels,
        hold_out,
        lambda data: make_long_tailed(data, imbalance_factor=2, validation_per_class=1),
    ):
        with (
            peak_below(50e6),
            pytest.raises(ValueError, match=r"below 1,000,000 without names; .* first is 1000000000"),
        ):
            call(dataset)

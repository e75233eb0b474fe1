"""What a benchmark is run on."""

import pytest
import tiny
from datasets import DatasetDict

from selmix_hf.studies.data import BenchmarkData


def test_a_labelled_split_without_a_class_is_refused():
    with pytest.raises(ValueError, match="the split test"):
        BenchmarkData(DatasetDict(train=tiny.images(), test=tiny.images((3, 3, 0, 3))), "", "squares")


def test_every_split_has_the_classes_of_train():
    test = tiny.images((1, 2, 3, 4))
    splits = DatasetDict(train=tiny.images(), test=tiny.renamed(test, ["grey", "blue", "green", "red"]))
    assert BenchmarkData(splits, "", "squares").splits["test"]["label"][:] == test["label"][:]

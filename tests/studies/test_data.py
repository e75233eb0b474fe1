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


def test_the_id_is_that_of_what_was_loaded():
    """Not the one that the recipe's benchmark has, where the samples come from another dataset of the Hub."""
    train, test = tiny.images(), tiny.images((3, 3, 3, 3))
    told = BenchmarkData(DatasetDict(train=train, test=test), "", "squares", "me/squares")
    train.info.download_checksums = {"hf://datasets/you/squares@0b27149/train.parquet": {}}
    loaded = BenchmarkData(DatasetDict(train=train, test=test), "", "squares", "me/squares")
    assert (told.dataset_id, loaded.dataset_id) == ("me/squares", "you/squares")

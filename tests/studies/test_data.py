"""What a benchmark is run on."""

import bad_pictures
import pytest
import tiny
from datasets import DatasetDict

from selmix_hf.studies.data import BenchmarkData, without_bad_images


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


def test_images_that_cannot_be_decoded_are_left_out_of_every_split(tmp_path):
    bad = {2: b"no image"}
    test = bad_pictures.images(bad, (3, 3, 3, 3))
    unlabelled = bad_pictures.images(bad, (2, 2, 2, 2)).remove_columns("label")
    splits = DatasetDict(train=tiny.images(), test=test, unlabeled=unlabelled)
    given = BenchmarkData(splits, "", "squares", remark="Small.", unlabeled_labels=[0, 1, 2, 3] * 2)
    config = tiny.config(tmp_path)
    assert without_bad_images(config, given) is given
    config.on_bad_image = "skip"
    data = without_bad_images(config, given)
    assert {part: len(dataset) for part, dataset in data.splits.items()} == {"train": 57, "test": 11, "unlabeled": 7}
    assert data.unlabeled_labels == [0, 1, 3, 0, 1, 2, 3] and config.on_bad_image == "raise"
    assert data.remark == "Small. Images that cannot be decoded were left out: 1 of 12 in test, 1 of 8 in unlabeled."

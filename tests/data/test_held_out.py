"""Validation and test images of every class, none of them twice."""

import logging

import numpy as np
import pytest
import tiny

from selmix_hf import LongTailedSplit, hold_out


def parts_of(dataset, **options):
    numbered = dataset.remove_columns("image").add_column("row", range(len(dataset)))
    splits = hold_out(numbered, **options)
    return splits, {part: splits[part]["row"][:] for part in splits}


def test_every_class_is_in_every_part():
    splits, rows = parts_of(tiny.images((100, 20, 4, 3)))
    counts = {part: np.bincount(splits[part]["label"]).tolist() for part in splits}
    assert counts == {"train": [60, 12, 2, 1], "validation": [20, 4, 1, 1], "test": [20, 4, 1, 1]}
    assert sorted(sum(rows.values(), [])) == list(range(127))


def test_the_seed_decides():
    images = tiny.images((30, 20), names=("a", "b"))
    assert parts_of(images)[1] == parts_of(images)[1] != parts_of(images, seed=1)[1]


def test_the_split_is_saved(tmp_path):
    images = tiny.images((30, 20), names=("a", "b"))
    splits, rows = parts_of(images, save_to=tmp_path / "split.json")
    saved = LongTailedSplit.load(tmp_path / "split.json")
    assert [list(saved.train), list(saved.validation)] == [rows["train"], rows["validation"]]
    assert saved.apply(images)["validation"]["label"][:] == splits["validation"]["label"][:]
    parts_of(images, save_to=tmp_path / "split.json")
    with pytest.raises(FileExistsError, match="holds something else than this split"):
        parts_of(images, seed=1, save_to=tmp_path / "split.json")


def test_shares():
    splits, _ = parts_of(tiny.images((100, 10, 10, 10)), validation=0.3, test=0.1)
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [78, 39, 13]


@pytest.mark.parametrize("options", [{"test": 0}, {"validation": 0.5, "test": 0.5}])
def test_bad_shares(options):
    with pytest.raises(ValueError, match="shares of each class, above 0 and together below 1; found"):
        hold_out(tiny.images(), **options)


def test_a_class_that_is_too_small():
    with pytest.raises(ValueError, match=r"needs 3 images or more.*too few have blue \(2\), grey \(0\)\. Add images"):
        hold_out(tiny.images((9, 9, 2, 0)))
    with pytest.raises(
        ValueError, match=r"needs 3 samples or more.*too few have blue \(2\), grey \(0\)\. Add samples"
    ):
        hold_out(tiny.images((9, 9, 2, 0)).remove_columns("image"))


def test_classes_of_one_or_two_train_on_request(caplog):
    dataset = tiny.images((9, 9, 2, 1))
    with pytest.raises(ValueError, match=r"blue \(2\), grey \(1\).*small_classes='train' keeps classes of one or two"):
        hold_out(dataset)
    with caplog.at_level(logging.WARNING):
        splits, rows = parts_of(dataset, small_classes="train")
    counts = {part: np.bincount(splits[part]["label"], minlength=4).tolist() for part in splits}
    assert counts == {"train": [7, 7, 2, 1], "validation": [1, 1, 0, 0], "test": [1, 1, 0, 0]}
    assert sorted(sum(rows.values(), [])) == list(range(21))
    assert "2 of 4 classes train, and validation and test lack these: blue (2), grey (1)" in caplog.text
    large = tiny.images((9, 9, 5, 4))
    assert parts_of(large, small_classes="train")[1] == parts_of(large)[1]


def test_what_cannot_be_kept():
    with pytest.raises(ValueError, match=r"images to train on; too few have grey \(0\)\. Add .*classes out\.$"):
        hold_out(tiny.images((9, 9, 2, 0)), small_classes="train")
    with pytest.raises(ValueError, match=r"too few have grey \(0\)\. Add images, or leave those classes out\.$"):
        hold_out(tiny.images((9, 9, 9, 0)))
    for small_classes in ("refuse", "train"):  # nothing to divide either way
        with pytest.raises(ValueError, match=r"red \(2\), green.* grey \(1\)\. Add images; .*needs a larger one"):
            hold_out(tiny.images((2, 2, 1, 1)), small_classes=small_classes)
    with pytest.raises(ValueError, match="small_classes must be 'refuse' or 'train', found 'keep'"):
        hold_out(tiny.images(), small_classes="keep")

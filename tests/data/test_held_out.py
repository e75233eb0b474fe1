"""Validation and test images of every class, none of them twice."""

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

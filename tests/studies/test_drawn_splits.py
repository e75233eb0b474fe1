"""Splits that a benchmark draws, or reads from a file."""

import tiny
from datasets import DatasetDict

from selmix_hf.data.long_tail import make_long_tailed
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import LongTailedArguments, split_images


def test_unlabelled_images_need_no_labels(tmp_path):
    images, test = tiny.images((20, 20, 20, 20)), tiny.images((3, 3, 3, 3), seed=1)
    drawn = {"max_per_class": 8, "validation_per_class": 4, "unlabeled_max_per_class": 5}
    own = make_long_tailed(images, 4, **drawn, save_to=tmp_path / "split.json")
    arguments = LongTailedArguments(split=str(tmp_path / "split.json"))
    splits, split = split_images(arguments, DatasetDict(train=images, test=test), tmp_path / "out" / "split.json")
    assert list(splits) == ["train", "validation", "unlabeled", "test"] and len(splits["unlabeled"]) == 20
    assert split.counts["unlabeled"] == [5] * 4
    data = BenchmarkData(splits, split.digest, "squares")
    assert data.train_counts.tolist() == [8, 5, 3, 2]
    assert own["unlabeled"].column_names == ["image"]

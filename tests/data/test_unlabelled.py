"""A set without labels: none reaches a collator, and its digest is of its rows."""

import pytest
import tiny
from datasets import Dataset, Features, Image

from selmix_hf.data.seeded import fetch
from selmix_hf.data.unlabelled import Unlabelled


@pytest.mark.parametrize("column", ["label", "class"])
def test_no_label_reaches_a_collator(column):
    dataset = Unlabelled(tiny.images((2, 2, 1, 1)), [column])
    assert [sample[column] for sample in fetch(dataset, [5, 0, 3])] == [0, 0, 0]
    assert dataset[5][column] == 0
    images = [sample["image"] for sample in fetch(dataset, [5, 0])]
    assert images[0].tobytes() == tiny.images((2, 2, 1, 1))[5]["image"].tobytes()
    own = Unlabelled([{"x": 1, "labels": 3}], ["label"])
    assert own[0] == {"x": 1, "labels": 0, "label": 0}
    pairs = Unlabelled([("x", 3), ["y", 2]])
    assert [pairs[0], *fetch(pairs, [1])] == [("x", 0), ("y", 0)]
    assert Unlabelled(["x", "y"])[1] == ("y", 0)


def test_the_digest_of_a_set_is_that_of_its_rows(tmp_path):
    """Not of its labels, of a transform, of where it lies or of the session."""

    def digest(dataset):
        return Unlabelled(dataset, ["own"]).digest

    own = tiny.unlabeled()
    assert digest(own) == digest(tiny.unlabeled([3] * 40)) == digest(own.add_column("own", [1] * 40))
    assert digest(own.with_transform(lambda rows: rows)) == digest(own)
    own.to_parquet(tmp_path / "own.parquet")
    assert digest(Dataset.from_parquet(str(tmp_path / "own.parquet"), cache_dir=str(tmp_path))) == digest(own)
    assert digest(own.shuffle(seed=1)) != digest(own) != digest(tiny.images((12, 9, 11, 8), seed=6))
    assert digest([own[0], own[1]]) is None
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        own[0]["image"].save(tmp_path / folder / "image.png")
        rows = {"image": [str(tmp_path / folder / "image.png")]}
        files.append(digest(Dataset.from_dict(rows, features=Features({"image": Image()}))))
    assert files[0] == files[1]

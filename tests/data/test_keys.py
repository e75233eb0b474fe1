"""What a split knows samples by."""

from pathlib import Path

import numpy as np
import pytest
from animals import NAMES, forbidden, png
from datasets import ClassLabel, Dataset, Features, Image, Value

from selmix_hf.data.long_tail import long_tailed_split, make_long_tailed
from selmix_hf.data.split import LongTailedSplit


def test_image_keys_hash_the_encoded_bytes(tmp_path: Path) -> None:
    images = [{"bytes": png(value), "path": None} for value in range(24)]
    features = Features({"img": Image(), "label": ClassLabel(names=NAMES[:2])})
    dataset = Dataset.from_dict({"img": images, "label": [0, 1] * 12}, features=features)
    split_file = tmp_path / "split.json"
    splits = make_long_tailed(dataset, 4, validation_per_class=2, key_column="img", save_to=split_file)
    again = LongTailedSplit.load(split_file).apply(dataset.shuffle(seed=5).with_transform(forbidden))
    for part in splits:
        again[part].reset_format()
        assert [x.getpixel((0, 0)) for x in splits[part]["img"]] == [x.getpixel((0, 0)) for x in again[part]["img"]]
    # an image that lives in a file has the key of its bytes
    (tmp_path / "x.png").write_bytes(png(0))
    images[0] = {"bytes": None, "path": str(tmp_path / "x.png")}
    in_file = Dataset.from_dict({"img": images, "label": [0, 1] * 12}, features=features)
    make_long_tailed(in_file, 4, validation_per_class=2, key_column="img", save_to=split_file)  # equal, so no error
    images[1] = images[3]
    twice = Dataset.from_dict({"img": images, "label": [0, 1] * 12}, features=features)
    with pytest.raises(ValueError, match="1 rows repeat a key of column 'img': .* is in rows 1 and 3"):
        make_long_tailed(twice, 4, key_column="img")


def test_unusable_keys(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="76 rows repeat a key of column 'label': 0 is in rows 0 and 4"):
        make_long_tailed(dataset.cast_column("label", Value("int64")), 8, key_column="label")
    with pytest.raises(ValueError, match="no column 'id' in the dataset; it has name, number, label"):
        make_long_tailed(dataset, 8, key_column="id")
    with pytest.raises(ValueError, match="keys must be strings, integers or images; column 'score' holds"):
        make_long_tailed(dataset.add_column("score", np.arange(80) / 7), 8, key_column="score")
    with pytest.raises(ValueError, match="row 79 has no key in column 'id'"):
        make_long_tailed(dataset.add_column("id", [*map(str, range(79)), None]), 8, key_column="id")
    with pytest.raises(ValueError, match="keys and key_column belong together"):
        long_tailed_split([0, 1], 1, keys=["a", "b"])
    with pytest.raises(ValueError, match="2 labels but 1 keys"):
        long_tailed_split([0, 1], 1, keys=["a"], key_column="name")

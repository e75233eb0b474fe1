"""Splits saved and rebuilt: the same rows again, and every file or dataset that is refused."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from animals import NAMES, OPTIONS
from datasets import ClassLabel, Dataset, DatasetDict
from memory import peak_below

from selmix_hf.data.labels import class_labels
from selmix_hf.data.long_tail import long_tailed_split, make_long_tailed
from selmix_hf.data.split import LongTailedSplit


@pytest.mark.parametrize("key_column", [None, "name", "number"])
def test_json_round_trip(dataset: Dataset, tmp_path: Path, key_column: str | None) -> None:
    path = tmp_path / "new" / "split.json"
    splits = make_long_tailed(dataset, **OPTIONS, key_column=key_column, save_to=path)
    content = json.loads(path.read_text())
    assert content["counts"] == {"train": [15, 7, 3, 1], "validation": [5, 5, 5, 5]}
    assert content["settings"]["class_order"] == [0, 1, 2, 3]
    split = LongTailedSplit.load(path)
    assert split.counts == content["counts"] and split.digest == content["digest"]
    assert split.label_names == tuple(NAMES) and split.num_rows == 80
    rebuilt = split.apply(dataset if key_column is None else dataset.shuffle(seed=9))
    for part in ("train", "validation"):
        assert rebuilt[part].to_dict() == splits[part].to_dict()
    assert os.listdir(path.parent) == ["split.json"]  # nothing unfinished is left


def test_digest_names_the_content(dataset: Dataset) -> None:
    labels = class_labels(dataset)
    digests = [long_tailed_split(labels, 8, seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    numpy_keys = long_tailed_split(labels, 8, keys=np.arange(80), key_column="number")
    list_keys = long_tailed_split(labels.tolist(), 8, keys=list(range(80)), key_column="number")
    assert numpy_keys.digest == list_keys.digest


def test_a_saved_split_is_never_overwritten(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    make_long_tailed(dataset, **OPTIONS, save_to=path)
    before = path.read_bytes()
    make_long_tailed(dataset, **OPTIONS, save_to=path)
    with pytest.raises(FileExistsError, match="holds something else than this split"):
        make_long_tailed(dataset, **OPTIONS, seed=1, save_to=path)
    assert path.read_bytes() == before
    path.write_text("not JSON")
    with pytest.raises(FileExistsError):
        make_long_tailed(dataset, **OPTIONS, save_to=path)
    assert path.read_text() == "not JSON"


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(source: object, target: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        long_tailed_split([0, 1], 1).save(tmp_path / "split.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "alter",
    [
        lambda content: content["train"].__setitem__(0, "img_other"),
        lambda content: content["train"].pop(),
        lambda content: content["train_labels"].reverse(),
        lambda content: content["settings"].update(seed=7),
        lambda content: content["label_names"].reverse(),
        lambda content: content["counts"]["train"].reverse(),
        lambda content: content.update(extra=1),
        lambda content: content.update(digest="0"),
        lambda content: content.pop("digest"),
        lambda content: content["validation"].__setitem__(0, content["train"][0]),
    ],
)
def test_an_altered_file_is_refused(dataset: Dataset, tmp_path: Path, alter: object) -> None:
    path = tmp_path / "split.json"
    make_long_tailed(dataset, **OPTIONS, key_column="name", save_to=path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=1))
    LongTailedSplit.load(path)  # another layout of the same content is fine
    alter(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="altered after it was saved"):
        LongTailedSplit.load(path)


@pytest.mark.parametrize(
    "alter",
    [
        lambda content: content["unlabeled"].pop(),
        lambda content: content["unlabeled_labels"].reverse(),
        lambda content: content["settings"].update(unlabeled_imbalance_factor=2.0),
        lambda content: [content.pop(name) for name in ("unlabeled", "unlabeled_labels")],
        lambda content: content["unlabeled"].__setitem__(0, content["train"][0]),
    ],
)
def test_altered_unlabelled_samples_are_refused(dataset: Dataset, tmp_path: Path, alter: object) -> None:
    path = tmp_path / "split.json"
    more = {"unlabeled_max_per_class": 8, "unlabeled_imbalance_factor": 1 / 8}
    make_long_tailed(dataset, **OPTIONS, max_per_class=8, **more, save_to=path)
    content = json.loads(path.read_text())
    assert content["counts"]["unlabeled"] == [1, 2, 4, 8]
    alter(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="altered after it was saved"):
        LongTailedSplit.load(path)


def test_a_bare_split_may_have_unlabelled_rows(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "bare.json").write_text(json.dumps({"train": [0, 1], "validation": [2], "unlabeled": [5, 4]}))
    splits = LongTailedSplit.load(tmp_path / "bare.json").apply(dataset)
    assert splits["unlabeled"]["name"][:] == ["img_5", "img_4"] and "label" not in splits["unlabeled"].column_names


@pytest.mark.parametrize("label", [10**9, -1, "0", 0.5, True])
def test_a_label_of_a_split_cannot_ask_for_gigabytes(tmp_path: Path, label: object) -> None:
    split = LongTailedSplit((0, 1), (2,), (0, 1), (0,))
    content = {**split._content(), "train_labels": [0, label]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (tmp_path / "split.json").write_text(json.dumps({**content, "digest": digest, "counts": {}}))
    with peak_below(50e6), pytest.raises(ValueError, match=r"the labels of a split must be 0 to 999,999, found"):
        LongTailedSplit.load(tmp_path / "split.json")


def test_apply_refuses_another_dataset(dataset: Dataset) -> None:
    labels = class_labels(dataset)
    fields = {"label_names": NAMES, "label_column": "label"}
    by_name = long_tailed_split(labels, 8, keys=dataset["name"][:], key_column="name", **fields)
    by_row = long_tailed_split(labels, 8, **fields)
    assert by_name.apply(dataset.with_format("numpy"))["train"].format["type"] == "numpy"

    with pytest.raises(ValueError, match=r"\d+ keys of the split are not in the dataset, the first are \['img_"):
        by_name.apply(dataset.select(range(40)))
    with pytest.raises(ValueError, match="row numbers of a dataset with 80 rows, applied to one with 79"):
        by_row.apply(dataset.select(range(79)))
    with pytest.raises(ValueError, match="another class .*: class '...' .*, was '...' .*original order only"):
        by_row.apply(dataset.shuffle(seed=1))
    with pytest.raises(ValueError, match="no column 'name' in the dataset"):
        by_name.apply(dataset.remove_columns("name"))
    renamed = dataset.cast_column("label", ClassLabel(names=["ant", "bee", "dog", "cat"]))
    with pytest.raises(
        ValueError, match=r"class names were 4 names \(ant, bee, cat, dog\) and are 4 names \(ant, bee, dog"
    ):
        by_name.apply(renamed)
    key = by_name.train[0]
    relabelled = dataset.map(lambda row: {"label": (row["label"] + (row["name"] == key)) % 4})
    with pytest.raises(ValueError, match=f"1 samples have another class .* key '{key}'"):
        by_name.apply(relabelled)
    with pytest.raises(TypeError, match="expected a datasets.Dataset .* got a DatasetDict"):
        by_name.apply(DatasetDict({"train": dataset}))


def test_bare_form_of_a_split_made_elsewhere(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"source": "animals", "train": [3, 1, 2], "validation": [7]}')
    split = LongTailedSplit.load(path)
    splits = split.apply(dataset)
    assert splits["train"]["name"][:] == ["img_3", "img_1", "img_2"] and splits["validation"]["name"][:] == ["img_7"]
    assert split.settings == {"source": "animals"}
    with pytest.raises(ValueError, match="stores no labels"):
        split.counts  # noqa: B018
    split.save(tmp_path / "own.json")
    assert LongTailedSplit.load(tmp_path / "own.json") == split
    with pytest.raises(ValueError, match=r"1 keys of the split are not in the dataset, the first are \[7\]"):
        split.apply(dataset.select(range(5)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is not a split"),
        ("{}", "is not a split"),
        ('{"train": 5}', "is not a split"),
        ('{"train": [1], "validation": 5}', "is not a split"),
        ("{", "is not a JSON file"),
        ('{"train": [1, 2], "validation": [2]}', r"1 keys occur twice \(1 in train and validation\)"),
        (
            '{"train": [1, 2], "validation": [3], "unlabeled": [2, 3, 4]}',
            r"2 keys occur twice \(0 in train and validation, 2 in unlabeled and one of these\)",
        ),
        ('{"train": [1, 1]}', r"1 keys occur twice \(0 in train"),
        ('{"train": [-1]}', "must be row numbers .*, found -1"),
        ('{"train": ["a"]}', "must be row numbers .*, found 'a'"),
        ('{"train": [true]}', "must be row numbers .*, found True"),
        ('{"train": [1], "format": "other/2"}', "not of the form"),
    ],
)
def test_files_that_are_no_split(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        LongTailedSplit.load(tmp_path / "x.json")


def test_reference_split(tmp_path: Path) -> None:
    folder = os.environ.get("SELMIX_REFERENCE_DATA")
    if not folder:
        pytest.skip("SELMIX_REFERENCE_DATA does not point to the reference data")
    dataset = Dataset.from_parquet(f"{folder}/data/cifar10/train.parquet", cache_dir=str(tmp_path))
    checkpoint = Path(folder, "checkpoints", "cifar10-lt-r100-tf_efficientnet_lite0")
    splits = LongTailedSplit.load(checkpoint / "split.json").apply(dataset)
    expected = [4500, 2697, 1617, 969, 581, 348, 208, 125, 75, 45]
    assert np.bincount(class_labels(splits["train"])).tolist() == expected and len(splits["train"]) == 11165
    assert np.bincount(class_labels(splits["validation"])).tolist() == [500] * 10
    own = make_long_tailed(dataset, 100, validation_per_class=500, key_column="img")
    assert np.bincount(class_labels(own["train"])).tolist() == expected

"""A user's own data: which column, which splits, and a sentence where that is not clear."""

import shutil

import bad_pictures
import numpy as np
import pyarrow.parquet
import pytest
import texts
import tiny
from datasets import Dataset, Features, Image, Value

from selmix_hf.data.modality import Images, Texts
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.own_data import OwnDataArguments, load_own, own_data


def load(folder, *options, needed=("train", "test"), out=None):
    (arguments,) = parse_arguments(OwnDataArguments, ["--dataset", str(folder), *map(str, options)])
    dataset, modality = load_own(arguments, needed)
    return own_data(arguments, dataset, modality, folder / "out" if out is None else out, "mine")


@pytest.fixture
def folder(tmp_path):
    for seed, (part, counts) in enumerate(texts.COUNTS.items()):
        texts.texts(counts, seed).to_parquet(tmp_path / f"{part}.parquet")
    return tmp_path


def test_a_validation_split_is_taken_as_it_is(folder):
    data = load(folder)
    assert {part: np.bincount(split["label"]).tolist() for part, split in data.splits.items()} == {
        part: list(counts) for part, counts in texts.COUNTS.items()
    }
    assert data.remark == "All splits are the dataset's own: nothing was made long-tailed."
    assert data.summary.startswith("43 train, 26 test, 22 validation texts, split ") and data.remark in data.summary
    assert not (folder / "out").exists() and data.modality == Texts(column="text")
    assert set(load(folder, needed=["train"]).splits) == {"train", "validation"}


def test_the_digest_is_of_the_samples_and_their_classes(folder, tmp_path_factory):
    data, elsewhere = load(folder), tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(folder, elsewhere, dirs_exist_ok=True)
    assert load(elsewhere).digest == data.digest
    digests = {data.digest}
    for part in ("train", "validation", "test"):
        for column, value in (("text", "another"), ("label", 2)):
            rows = Dataset.from_parquet(str(folder / f"{part}.parquet"))
            first = {**rows[0], column: value}
            changed = Dataset.from_list([first, *list(rows)[1:]], features=rows.features)
            changed.to_parquet(elsewhere / f"{part}.parquet")
            digests.add(load(elsewhere).digest)
            shutil.copy(folder / f"{part}.parquet", elsewhere)
    assert len(digests) == 7


@pytest.mark.parametrize(
    "options",
    [
        ["--imbalance_factor", 10, "--max_per_class", 30, "--validation_per_class", 10],
        ["--validation_per_class", 500, "--max_per_class", 100],  # values that happen to be defaults count too
    ],
)
def test_an_option_of_drawing_draws(options, folder):
    texts.texts((800, 700, 600)).to_parquet(folder / "train.parquet")
    data = load(folder, *options)
    split = LongTailedSplit.load(folder / "out" / "split.json")
    assert data.digest == split.digest and data.train_counts.max() == options[options.index("--max_per_class") + 1]
    assert split.settings["imbalance_factor"] == (10 if 10 in options else 100)
    assert data.remark == "The training texts were made long-tailed here." and isinstance(data.modality, Texts)
    saved = folder / "mine.json"
    shutil.copy(folder / "out" / "split.json", saved)
    again = load(folder, "--split", saved, out=folder / "again")
    assert again.digest == split.digest and again.remark == "The training texts were split as mine.json says."


def test_without_a_validation_split_one_is_drawn(folder):
    (folder / "validation.parquet").unlink()
    with pytest.raises(
        ValueError, match=r"class 'admin' \(0\) has 30 texts, but .* 500 for validation were asked for"
    ):
        load(folder)


def columns(**kinds):
    rows = tiny.images((1, 1, 1, 1))
    made = {"string": ["a b"] * 4, "image": rows["image"][:], "label": rows["label"][:]}
    features = {"string": Value("string"), "image": Image(), "label": rows.features["label"]}
    kinds = {"label": "label", **kinds}
    own = Features({name: features[kind] for name, kind in kinds.items()})
    return Dataset.from_dict({name: made[kind] for name, kind in kinds.items()}, features=own)


@pytest.mark.parametrize(
    ("kinds", "options", "found"),
    [
        ({"image": "image"}, [], Images()),
        ({"image": "image", "title": "string"}, [], Images()),
        ({"title": "string"}, [], Texts(column="title")),
        ({"image": "image", "title": "string"}, ["--text_column", "title", "--max_length", 9], Texts(column="title")),
        ({"a": "image", "b": "image"}, ["--image_column", "b"], Images()),
        ({"a": "image", "b": "image"}, ["--image_column", "c"], "image_column: .* no column 'c' of images; .* a, b,"),
        (
            {"title": "string"},
            ["--text_column", "label"],
            "text_column: .* no column 'label' of strings; .* are title",
        ),
        ({"a": "string", "b": "string"}, [], "Columns of images: none; of texts: a, b; .* by --image_column or --te"),
        ({"a": "image", "b": "image", "c": "string"}, [], "Columns of images: a, b; of texts: c"),
        ({}, [], "Columns of images: none; of texts: none; all: label"),
        ({"a": "image", "b": "string"}, ["--image_column", "a", "--text_column", "b"], "give one of them"),
        ({"image": "image"}, ["--max_length", 9], "max_length counts the tokens of texts, and these are images"),
    ],
)
def test_the_column(kinds, options, found, tmp_path):
    for part in ("train", "validation", "test"):
        columns(**kinds).to_parquet(tmp_path / f"{part}.parquet")
    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            load(tmp_path, *options)
        return
    data = load(tmp_path, *options)
    assert type(data.modality) is type(found) and getattr(data.modality, "column", 0) == getattr(found, "column", 0)
    kept = {name for name, kind in kinds.items() if kind == "image"} & set(data.splits["train"].column_names)
    assert kept == ({data.image_column} if isinstance(found, Images) else set())  # of others the trainer knows nothing
    if "--image_column" in options:
        assert data.image_column == "b"


def test_a_row_without_a_text_is_named(folder):
    table = pyarrow.parquet.read_table(folder / "validation.parquet")
    values = [None if row in (3, 5) else text for row, text in enumerate(table["text"].to_pylist())]
    pyarrow.parquet.write_table(table.set_column(0, "text", [values]), folder / "validation.parquet")
    with pytest.raises(
        ValueError, match=r"split validation .* no text in row 3 of its column 'text' \(2 such rows of"
    ):
        load(folder)


def test_a_class_that_is_missing_is_named(folder):
    texts.texts((12, 0, 4)).to_parquet(folder / "validation.parquet")
    with pytest.raises(ValueError, match="the split validation.*games"):
        load(folder)


def test_columns_of_pixels_are_images(tmp_path):
    for part in ("train", "test"):
        rows = {"image": bad_pictures.arrays((3, 3, 3, 3)), "label": [[k] for k in range(4) for _ in range(3)]}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{part}.parquet")
    data = load(tmp_path, "--max_per_class", 2, "--imbalance_factor", 1, "--validation_per_class", 1)
    assert data.modality == Images() and data.train_counts.tolist() == [2] * 4

"""Long-tailed splits and list files: hand-worked counts, reproducibility, and every error a user can meet."""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from selmix_hf.data.labels import class_labels, infer_label_column
from selmix_hf.data.list_files import load_list_file, load_list_files
from selmix_hf.data.long_tail import long_tailed_counts, long_tailed_split, make_long_tailed
from selmix_hf.data.split import LongTailedSplit

NAMES = ["ant", "bee", "cat", "dog"]
OPTIONS = {"imbalance_factor": 8, "validation_per_class": 5}  # 20 images a class: 15 left, 15 7 3 1 for training


@pytest.fixture
def dataset() -> Dataset:
    """80 rows, 20 a class, in mixed order, with a unique string and a unique integer column."""
    labels = [row * 7 % 4 for row in range(80)]
    features = Features({"name": Value("string"), "number": Value("int32"), "label": ClassLabel(names=NAMES)})
    columns = {"name": [f"img_{row}" for row in range(80)], "number": [1000 - row for row in range(80)]}
    return Dataset.from_dict({**columns, "label": labels}, features=features)


def labelled(values: list, names: list[str] | None = None) -> Dataset:
    feature = ClassLabel(names=names) if names else Value("int64")
    return Dataset.from_dict({"label": values}, features=Features({"label": feature}))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (2, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def forbidden(batch: dict) -> dict:
    raise AssertionError("the transform ran")


# Counts


def test_exponential_counts_are_those_of_cifar10_lt() -> None:
    assert long_tailed_counts(10, 5000, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert sum(long_tailed_counts(100, 500, 100)) == 10847  # CIFAR-100-LT as everybody reports it


def test_pareto_counts_by_hand() -> None:
    # rho = 64: t = 3, n_k = 6400 (1 + k)^-3 for k = 0 .. 3
    assert long_tailed_counts(4, 6400, 64, "pareto") == [6400, 800, 237, 100]
    assert sum(long_tailed_counts(1000, 1280, 256, "pareto")) == 116711


@pytest.mark.parametrize(("num_classes", "expected"), [(4, [50, 50, 5, 5]), (5, [50, 50, 5, 5, 5])])
def test_step_counts(num_classes: int, expected: list[int]) -> None:
    assert long_tailed_counts(num_classes, 50, 10, "step") == expected


@pytest.mark.parametrize("profile", ["exponential", "pareto", "step"])
@pytest.mark.parametrize("imbalance_factor", [1, 10, 100, 200])
def test_counts_fall_from_n_max_to_n_max_over_rho(profile: str, imbalance_factor: float) -> None:
    for n_max in range(200, 1300):
        counts = long_tailed_counts(7, n_max, imbalance_factor, profile)
        assert counts == sorted(counts, reverse=True)
        assert (counts[0], counts[-1]) == (n_max, n_max // imbalance_factor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 50, 100), "at most 50 images a class leaves 2 classes without an image; it can be 50 at most"),
        ((10, 50, 0.5), "must be 1 or more, not 0.5"),
        ((10, 50, float("inf")), "must be 1 or more"),
        ((1, 50, 10), "needs 2 classes or more, found 1"),
        ((10, 50, 10, "linear"), "one of exponential, pareto, step, not 'linear'"),
    ],
)
def test_impossible_counts(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        long_tailed_counts(*arguments)


# The split


def test_counts_disjoint_and_balanced_validation(dataset: Dataset) -> None:
    splits = make_long_tailed(dataset, **OPTIONS)
    assert list(splits) == ["train", "validation"]
    assert np.bincount(splits["train"]["label"][:]).tolist() == [15, 7, 3, 1]
    assert np.bincount(splits["validation"]["label"][:]).tolist() == [5, 5, 5, 5]
    names = splits["train"]["name"][:] + splits["validation"]["name"][:]
    assert len(set(names)) == len(names) == 46
    assert splits["train"].features == dataset.features
    assert list(make_long_tailed(dataset, 8)) == ["train"]


def test_samples_are_drawn_by_hash(dataset: Dataset) -> None:
    rows = [row for row in range(80) if row * 7 % 4 == 2]
    rows.sort(key=lambda row: hashlib.sha256(f"3|img_{row}".encode()).hexdigest())
    splits = make_long_tailed(dataset, **OPTIONS, seed=3, key_column="name")
    cats = {part: splits[part].filter(lambda row: row["label"] == 2)["name"][:] for part in splits}
    assert cats == {
        "validation": [f"img_{row}" for row in rows[:5]],
        "train": [f"img_{row}" for row in rows[5:8]],
    }


def test_largest_n_max_that_fits_every_class() -> None:
    # shares 1, 1/2, 1/4: class 1 has 21 images after validation, so n_max = 43 (43 / 2 = 21.5, 44 / 2 = 22)
    labels = [0] * 100 + [1] * 23 + [2] * 50
    split = long_tailed_split(labels, 4, validation_per_class=2)
    assert split.counts == {"train": [43, 21, 10], "validation": [2, 2, 2]}
    assert split.settings["max_per_class"] == 43
    with pytest.raises(ValueError, match="class 1 has 23 images, but 22 for training and 2 for validation"):
        long_tailed_split(labels, 4, max_per_class=44, validation_per_class=2)


def test_class_order(dataset: Dataset) -> None:
    labels = class_labels(dataset)

    def train_counts(order: object, seed: int = 0) -> list[int]:
        split = long_tailed_split(labels, 8, class_order=order, seed=seed, max_per_class=16, label_names=NAMES)
        return split.counts["train"]

    assert train_counts(None) == [16, 8, 4, 2]
    assert train_counts([2, 0, 3, 1]) == train_counts(["cat", "ant", "dog", "bee"]) == [8, 2, 16, 4]
    drawn = [train_counts("random", seed) for seed in range(8)]
    assert drawn == [train_counts("random", seed) for seed in range(8)]
    assert len({tuple(counts) for counts in drawn}) > 2
    assert all(sorted(counts) == [2, 4, 8, 16] for counts in drawn)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 2], "4 classes once; it has 3 entries, unknown .*, missing .*dog"),
        ([0, 1, 2, 2], "missing .*dog"),
        ([0, 1, 2, 4], r"unknown \[4\]"),
        (["ant", "bee", "cat", "cow"], r"unknown \['cow'\]"),
        ("shuffled", "None, 'random' or a list of classes, not 'shuffled'"),
    ],
)
def test_wrong_class_order(dataset: Dataset, order: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_long_tailed(dataset, 8, class_order=order)


@pytest.mark.parametrize("key_column", ["name", "number"])
def test_with_keys_the_order_of_the_rows_does_not_matter(dataset: Dataset, key_column: str) -> None:
    shuffled = dataset.shuffle(seed=1)
    first, second = (make_long_tailed(d, **OPTIONS, key_column=key_column) for d in (dataset, shuffled))
    for part in ("train", "validation"):
        assert first[part]["name"][:] == second[part]["name"][:]
    by_row = [make_long_tailed(d, **OPTIONS)["train"]["name"][:] for d in (dataset, shuffled)]
    assert by_row[0] != by_row[1]


def test_seed_changes_the_samples(dataset: Dataset) -> None:
    drawn = {tuple(make_long_tailed(dataset, **OPTIONS, seed=seed)["train"]["name"]) for seed in range(3)}
    assert len(drawn) == 3
    assert (
        make_long_tailed(dataset, **OPTIONS)["train"]["name"][:]
        == make_long_tailed(dataset, **OPTIONS)["train"]["name"][:]
    )


@pytest.mark.parametrize(
    ("factor", "expected"), [(8, [8, 4, 2, 1]), (1, [8, 8, 8, 8]), (1 / 8, [1, 2, 4, 8]), (4, [8, 5, 3, 2])]
)
def test_unlabelled_samples(dataset: Dataset, tmp_path: Path, factor: float, expected: list[int]) -> None:
    options = {"imbalance_factor": 7, "validation_per_class": 5, "max_per_class": 7, "seed": 3}
    more = {"unlabeled_max_per_class": 8, "unlabeled_imbalance_factor": factor, "save_to": tmp_path / "split.json"}
    splits, without = make_long_tailed(dataset, **options, **more), make_long_tailed(dataset, **options)
    assert splits["unlabeled"].column_names == ["name", "number"]  # true labels cannot be read
    rows = {part: [int(name[4:]) for name in splits[part]["name"]] for part in splits}
    assert rows["train"] == [int(name[4:]) for name in without["train"]["name"]]
    assert rows["validation"] == [int(name[4:]) for name in without["validation"]["name"]]
    assert np.bincount(np.array(dataset["label"])[rows["unlabeled"]]).tolist() == expected
    assert len(set(sum(rows.values(), []))) == sum(map(len, rows.values())) == 7 + 3 + 1 + 1 + 20 + sum(expected)
    saved = LongTailedSplit.load(tmp_path / "split.json")
    assert saved.counts["unlabeled"] == expected
    assert list(saved.unlabeled_labels) == [dataset[row]["label"] for row in rows["unlabeled"]]
    assert saved.apply(dataset)["unlabeled"]["name"][:] == splits["unlabeled"]["name"][:]
    make_long_tailed(dataset, **options, **more)  # an equal split may be saved again
    with pytest.raises(ValueError, match="samples have another class than when the split was made"):
        swapped = np.array(dataset["label"])
        swapped[rows["unlabeled"][0]] = (swapped[rows["unlabeled"][0]] + 1) % 4
        saved.apply(
            dataset.remove_columns("label").add_column("label", swapped.tolist(), feature=dataset.features["label"])
        )


def test_room_for_unlabelled_samples(dataset: Dataset) -> None:
    """20 images a class, 5 for validation, 8 unlabelled: 7 are left, 7 / 8 is none."""
    split = long_tailed_split(dataset["label"][:], 4, validation_per_class=5, unlabeled_max_per_class=8)
    assert split.counts == {"train": [7, 4, 2, 1], "validation": [5] * 4, "unlabeled": [8] * 4}
    with pytest.raises(
        ValueError, match="16 for training, 8 unlabelled and 0 for .*lower max_per_class, unlabeled_max"
    ):
        long_tailed_split(dataset["label"][:], 4, max_per_class=16, unlabeled_max_per_class=8)
    with pytest.raises(ValueError, match="unlabeled_imbalance_factor above 0, not 8 and 0"):
        long_tailed_split(dataset["label"][:], 4, unlabeled_max_per_class=8, unlabeled_imbalance_factor=0)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (9, "unlabeled_imbalance_factor=9 with unlabeled_max_per_class=8 leaves .*; it can be 1/8 to 8"),
        (1 / 9, "unlabeled_imbalance_factor=0.111111 with unlabeled_max_per_class=8 leaves"),
        (float("nan"), "unlabeled_imbalance_factor above 0, not 8 and nan"),
        (float("inf"), "unlabeled_imbalance_factor above 0, not 8 and inf"),
        ("1/8", "unlabeled_imbalance_factor must be a number, not '1/8'"),
    ],
)
def test_impossible_unlabelled_counts(dataset: Dataset, factor: object, message: str) -> None:
    """The message names the options of the unlabelled samples, not those of training."""
    with pytest.raises(ValueError, match=message):
        make_long_tailed(dataset, 4, unlabeled_max_per_class=8, unlabeled_imbalance_factor=factor)


def test_a_factor_of_no_unlabelled_samples_is_refused(dataset: Dataset) -> None:
    with pytest.raises(
        ValueError, match="unlabeled_imbalance_factor=0.5 says nothing without unlabeled_max_per_class"
    ):
        make_long_tailed(dataset, 4, unlabeled_imbalance_factor=0.5)
    with pytest.raises(ValueError, match="unlabeled_max_per_class must be 1 or more .* not 0 and 1"):
        make_long_tailed(dataset, 4, unlabeled_max_per_class=0)


@pytest.mark.parametrize(("profile", "expected"), [("step", [1, 1, 8, 8]), ("pareto", [1, 1, 3, 8])])
def test_unlabelled_samples_follow_profile_and_class_order(
    dataset: Dataset, profile: str, expected: list[int]
) -> None:
    """Of pareto with rho = 8: 8 (1 + k/3)^-3 = 8, 3.4, 1.7, 1."""
    options = {"profile": profile, "class_order": [2, 0, 3, 1], "max_per_class": 8}
    more = {"unlabeled_max_per_class": 8, "unlabeled_imbalance_factor": 1 / 8}
    counts = long_tailed_split(class_labels(dataset), 8, **options, **more).counts
    assert [counts["unlabeled"][k] for k in (2, 0, 3, 1)] == expected
    assert [counts["train"][k] for k in (2, 0, 3, 1)] == expected[::-1]


def test_unlabelled_samples_are_next_by_hash(dataset: Dataset) -> None:
    rows = [row for row in range(80) if row * 7 % 4 == 2]
    rows.sort(key=lambda row: hashlib.sha256(f"3|img_{row}".encode()).hexdigest())
    options = {**OPTIONS, "max_per_class": 8, "seed": 3, "key_column": "name", "unlabeled_max_per_class": 4}
    splits = make_long_tailed(dataset, **options)  # of class 2: 5 for validation, 2 for training, 4 unlabelled
    own = {f"img_{row}" for row in rows}
    assert [name for name in splits["unlabeled"]["name"] if name in own] == [f"img_{row}" for row in rows[7:11]]


def test_no_coarse_class_either(dataset: Dataset) -> None:
    coarse = dataset.add_column("coarse", [0, 1] * 40, feature=ClassLabel(names=["pet", "pest"]))
    coarse = coarse.add_column("target", [0, 1, 2, 3] * 20)
    splits = make_long_tailed(coarse, 4, unlabeled_max_per_class=8, label_column="label")
    assert splits["unlabeled"].column_names == ["name", "number"]
    assert splits["train"].column_names == ["name", "number", "label", "coarse", "target"]
    with pytest.raises(ValueError, match="no label column found"):
        infer_label_column(splits["unlabeled"])


def test_the_digest_of_a_split_without_unlabelled_samples_stays() -> None:
    """As computed before there were any; recorded runs name theirs."""
    labels = [k for k in range(4) for _ in range(20)]
    split = long_tailed_split(labels, 8, validation_per_class=5, seed=3)
    assert split.digest == "f411c888c9b1ab44d8d127a3183b6e3d25022593802120ac25a90970f4387a97"
    with_unlabeled = long_tailed_split(labels, 8, max_per_class=8, validation_per_class=5, unlabeled_max_per_class=2)
    without = long_tailed_split(labels, 8, max_per_class=8, validation_per_class=5)
    assert with_unlabeled.digest != without.digest and with_unlabeled.train == without.train


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


def test_more_images_than_a_class_has(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"'ant' \(0\) has 20 images, but 18 for training and 5 for validation"):
        make_long_tailed(dataset, 8, max_per_class=18, validation_per_class=5)
    with pytest.raises(ValueError, match="'ant' .* has 20 images, but 8 for training and 20 for validation"):
        make_long_tailed(dataset, 8, validation_per_class=20)
    with pytest.raises(ValueError, match=r"class 'emu' \(4\) has 0 images"):
        make_long_tailed(labelled([0, 1, 2, 3] * 9, [*NAMES, "emu"]), 1)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        make_long_tailed(dataset, 8, validation_per_class=-1)


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


# Saved and rebuilt


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


# Labels


def test_infer_label_column() -> None:
    classes, number = ClassLabel(names=NAMES), Value("int64")

    def infer(**features: object) -> str:
        return infer_label_column(Dataset.from_dict({name: [0] for name in features}, features=Features(features)))

    assert infer(img=Value("string"), species=classes) == "species"
    assert infer(id=number, labels=number) == "labels"
    assert infer(id=number, fine_label=classes) == "fine_label"
    assert infer(domain=classes, label=number) == "label"
    with pytest.raises(ValueError, match="fine_label, coarse_label all could; pass label_column"):
        infer(fine_label=classes, coarse_label=classes)
    with pytest.raises(ValueError, match="no label column found among id, text"):
        infer(id=number, text=Value("string"))


def test_labels_are_read_without_running_the_transform(dataset: Dataset) -> None:
    transformed = dataset.with_transform(forbidden)
    with pytest.raises(AssertionError, match="the transform ran"):
        transformed["label"][0]
    labels = class_labels(transformed)
    assert labels.dtype == np.int64 and labels.tolist() == dataset["label"][:]
    assert class_labels(transformed.select([5, 2])).tolist() == [3, 2]
    assert class_labels(dataset.select([])).shape == (0,)
    splits = make_long_tailed(transformed, **OPTIONS, key_column="name")
    assert len(splits["train"]) == 26
    with pytest.raises(AssertionError, match="the transform ran"):  # which the splits keep
        splits["train"][0]


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([0, 1, -1, -1], None, "must be 0 or more; 2 are not, the first is -1 in row 2"),
        ([0, -1], NAMES, "must be 0 to 3; 1 are not"),
        ([0, None], NAMES, "missing in places"),
    ],
)
def test_unusable_labels(values: list, names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_labels(labelled(values, names))


def test_columns_that_are_no_labels() -> None:
    dataset = Dataset.from_dict({"text": ["a"], "many": [[1, 2]], "score": [0.5]})
    for column in dataset.column_names:
        with pytest.raises(ValueError, match=f"column '{column}' holds .*, not an integer class"):
            class_labels(dataset, column)
    with pytest.raises(ValueError, match="must be 0 to 1; 1 are not, the first is 2 in row 1"):
        long_tailed_split([0, 2], label_names=["a", "b"])
    with pytest.raises(ValueError, match="not integers"):
        long_tailed_split([0.0, 1.0])


def test_streaming_and_several_datasets_are_refused(dataset: Dataset) -> None:
    streaming = dataset.to_iterable_dataset()
    with pytest.raises(TypeError, match="no random access.*streaming=True.*Dataset.from_list"):
        class_labels(streaming)
    with pytest.raises(TypeError, match="expected one dataset, got several: pass one of 'train', 'test'"):
        class_labels(DatasetDict({"train": dataset, "test": dataset}))
    for function in (make_long_tailed, infer_label_column):
        with pytest.raises(TypeError, match="not streaming.*got a IterableDataset"):
            function(streaming)


class MapStyle:
    """What torchvision users have."""

    def __init__(self, items: list, **attributes: object) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.items[i]


def test_other_map_style_datasets() -> None:
    items = [{"label": 2, "coarse": 0}, {"label": 1, "coarse": 1}]
    assert class_labels(MapStyle(items)).tolist() == [2, 1]
    assert class_labels(MapStyle(items), "coarse").tolist() == [0, 1]
    assert class_labels(MapStyle(items, coarse=[5, 6]), "coarse").tolist() == [5, 6]
    assert class_labels(MapStyle([(None, 7)], targets=[4])).tolist() == [4]
    assert class_labels(MapStyle([(None, 7)], labels=np.array([3], np.uint8))).dtype == np.int64
    with pytest.raises(TypeError, match="cannot read the labels of a MapStyle.*no field coarse"):
        class_labels(MapStyle([(None, 7)]), "coarse")
    with pytest.raises(ValueError, match=r"one label a row, 2 in all; 'targets' has shape \[3\]"):
        class_labels(MapStyle(items, targets=[0, 1, 2]))
    with pytest.raises(ValueError, match="not integers"):
        class_labels(MapStyle([{"label": "cat"}]))


# List files


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    for value, name in enumerate(("train/a/1.png", "train/b c/2 3.png", "val/4.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(value))
    return tmp_path


def write(folder: Path, text: str, name: str = "list.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_list_file_with_spaces_in_paths(image_root: Path) -> None:
    path = write(image_root, "train/a/1.png 0\n\ntrain/b c/2 3.png 3\n/val/4.png\t1")
    dataset = load_list_file(path, image_root)
    assert dataset.features == Features({"image": Image(), "label": ClassLabel(names=["0", "1", "2", "3"])})
    assert dataset["label"][:] == [0, 3, 1]
    assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [0, 1, 2]
    assert load_list_file(path, image_root, NAMES).features["label"].names == NAMES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train/a/1.png 0\n\ntrain/a/1.png\n", "line 3: expected 'path label', found 'train/a/1.png'"),
        ("train/a/1.png 0\ntrain/b c/2 3.png\n", "line 2: the label must be an integer from 0, found '3.png'"),
        ("train/a/1.png -1", "line 1: the label must be an integer from 0, found '-1'"),
        ("train/a/1.png 1.5", "found '1.5'"),
        ("train/a/1.png 4", "line 1: label 4, but there are 4 label_names"),
        ("3\n", "line 1: expected 'path label', found '3'"),
        ("\n \n", "list.txt lists no image"),
    ],
)
def test_bad_list_files(image_root: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_list_file(write(image_root, text), image_root, NAMES)


def test_missing_images_are_named(image_root: Path) -> None:
    path = write(image_root, "train/a/1.png 0\ntrain/a/gone.png 0\n" + "".join(f"x/{i}.png 1\n" for i in range(5)))
    with pytest.raises(
        FileNotFoundError, match=r"6 of 7 images of .*list.txt .*gone.png, .*x/0.png, .*x/1.png$"
    ) as error:
        load_list_file(path, image_root)
    assert str(image_root) in str(error.value)
    assert len(load_list_file(path, image_root, check_files=False)) == 7


def test_list_files_share_their_classes(image_root: Path) -> None:
    paths = {
        "train": write(image_root, "train/a/1.png 0\n", "train.txt"),
        "validation": write(image_root, "val/4.png 2\n", "val.txt"),
    }
    splits = load_list_files(paths, image_root)
    assert isinstance(splits, DatasetDict) and list(splits) == ["train", "validation"]
    assert splits["train"].features == splits["validation"].features
    assert splits["train"].features["label"].names == ["0", "1", "2"]
    with pytest.raises(ValueError, match="val.txt, line 1: label 2, but there are 2 label_names"):
        load_list_files(paths, image_root, ["a", "b"])
    with pytest.raises(ValueError, match="no list file given"):
        load_list_files({}, image_root)


# The reference split


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"imbalance_factor": "100"}, "imbalance_factor must be a number, not '100'"),
        ({"max_per_class": 2.5}, "max_per_class must be a whole number, not 2.5"),
        ({"max_per_class": 0}, "max_per_class must be 1 or more, not 0"),
        ({"validation_per_class": 0.1}, "validation_per_class must be a whole number, not 0.1"),
        ({"seed": None}, "seed must be a whole number, not None"),
    ],
)
def test_options_of_a_wrong_kind(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        long_tailed_split([0, 0, 1, 1], **options)


def test_several_sets_are_told_apart_from_one():
    one = Dataset.from_dict({"label": [0, 1]})
    with pytest.raises(TypeError, match="got a DatasetDict of 'train', 'test': pass one of them"):
        make_long_tailed(DatasetDict(train=one, test=one))

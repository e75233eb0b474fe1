"""Long-tailed splits: hand-worked counts, reproducibility, and every error a user can meet."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from animals import NAMES, OPTIONS, labelled
from datasets import ClassLabel, Dataset, DatasetDict

from selmix_hf.data.labels import class_labels, infer_label_column
from selmix_hf.data.long_tail import long_tailed_counts, long_tailed_split, make_long_tailed
from selmix_hf.data.split import LongTailedSplit

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


def test_more_images_than_a_class_has(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"'ant' \(0\) has 20 images, but 18 for training and 5 for validation"):
        make_long_tailed(dataset, 8, max_per_class=18, validation_per_class=5)
    with pytest.raises(ValueError, match="'ant' .* has 20 images, but 8 for training and 20 for validation"):
        make_long_tailed(dataset, 8, validation_per_class=20)
    with pytest.raises(ValueError, match=r"class 'emu' \(4\) has 0 images"):
        make_long_tailed(labelled([0, 1, 2, 3] * 9, [*NAMES, "emu"]), 1)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        make_long_tailed(dataset, 8, validation_per_class=-1)


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

"""List files of published benchmarks: what their lines become, and every error a user can meet."""

import logging
from pathlib import Path

import pytest
from animals import NAMES, png
from datasets import ClassLabel, DatasetDict, Features, Image
from memory import peak_below

from selmix_hf.data.list_files import load_list_file, load_list_files


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
        ("train/a/1.png 0\nval/4.png " + "9" * 5000, "line 2: the label must be an integer from 0, found '999"),
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


def test_ids_are_refused_or_numbered_in_their_order(image_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not a class for each number up to 1,400,000."""
    paths = {
        "train": write(image_root, "train/a/1.png 1400000\nval/4.png 48", "train.txt"),
        "test": write(image_root, "train/b c/2 3.png 52000\nval/4.png 48", "test.txt"),
    }
    with pytest.raises(ValueError, match=r"train.txt, .*test.txt reach 1400000, but only 3 .*dense=True.*label_names"):
        load_list_files(paths, image_root)
    with caplog.at_level(logging.WARNING):
        splits = load_list_files(paths, image_root, dense=True)
    assert [part["label"][:] for part in splits.values()] == [[2, 0], [1, 0]]
    assert splits["test"].features["label"].names == ["48", "52000", "1400000"]
    assert "48, 52000, 1400000, ... become 0, 1, 2, ..." in caplog.text
    named = load_list_files(paths, image_root, ["ant", "bee", "cat"], dense=True)
    assert named["train"].features["label"].names == ["ant", "bee", "cat"]
    with pytest.raises(ValueError, match="3 labels occur, but there are 4 label_names"):
        load_list_files(paths, image_root, NAMES, dense=True)


def test_class_numbers_are_taken_as_they_are(image_root: Path) -> None:
    """Few of a thousand classes, and more than half of many."""
    few = load_list_file(write(image_root, "train/a/1.png 3\nval/4.png 999"), image_root)
    assert few.features["label"].num_classes == 1000 and few["label"][:] == [3, 999]
    lines = "".join(f"val/4.png {k}\n" for k in range(0, 1501) if k % 3)
    assert load_list_file(write(image_root, lines), image_root).features["label"].num_classes == 1500


def test_paths_stay_below_the_root(image_root: Path) -> None:
    (image_root / "secret.png").write_bytes(png(9))
    root = image_root / "train"
    (root / "link").symlink_to(image_root / "val")
    (image_root / "val" / "5.png").write_bytes(png(5))
    inside = load_list_file(write(root, "b c/../a/1.png 0\nlink/4.png 1"), root)  # who laid the link wants it
    assert [image.getpixel((0, 0))[0] for image in inside["image"]] == [0, 2]
    outside = (
        "../secret.png",
        "a/../../secret.png",
        "/../secret.png",
        "link/../secret.png",
        "../train/../secret.png",
    )
    for path in outside:
        with pytest.raises(ValueError, match=r"line 1: '/?[a-z.]*/.*secret.png' leads out of image_root="):
            load_list_file(write(root, f"{path} 0"), root)


def test_a_root_that_is_a_link_and_absolute_paths(image_root: Path) -> None:
    (link := image_root / "link").symlink_to(image_root / "train")
    path = write(image_root, f"b c/../a/1.png 0\n/a/1.png 0\n{image_root}/secret.png 0")
    images = load_list_file(path, link, check_files=False).cast_column("image", Image(decode=False))["image"]
    assert [image["path"] for image in images] == [
        f"{link}/b c/../a/1.png",
        f"{link}/a/1.png",
        f"{link}{image_root}/secret.png",  # below the root, where there is no such file
    ]
    with pytest.raises(ValueError, match="leads out of image_root"):
        load_list_file(write(image_root, "../train/../val/4.png 0"), link)


def test_an_address_is_a_path_below_the_root(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets would open one."""
    monkeypatch.chdir(image_root)
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images .* the first are \./https://a.example/1.png"):
        load_list_file(write(image_root, "https://a.example/1.png 0"), "")


@pytest.mark.parametrize("text", ["train/a/1.png 1000000000", "train/a/1.png 0\nval/4.png 999999999999999999"])
def test_a_label_cannot_ask_for_gigabytes(image_root: Path, text: str) -> None:
    path = write(image_root, text)
    with peak_below(50e6):
        with pytest.raises(ValueError, match="but only . of these numbers occur. Where they are ids"):
            load_list_file(path, image_root)
        with pytest.raises(ValueError, match="label [0-9]*, but there are 4 label_names"):
            load_list_file(path, image_root, NAMES)
        assert load_list_file(path, image_root, dense=True).features["label"].num_classes == text.count("png")

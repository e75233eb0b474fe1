"""COCO's JSON with one class an image: ids become numbers, and what has no class or two is told."""

import json
import logging
from pathlib import Path

import pytest
from animals import png
from memory import peak_below

from selmix_hf import load_coco_file, load_coco_files

NAMES = {1_400_000: "owl", 7: "cat", 90: "dog"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for value in range(4):
        (tmp_path / f"{value}.png").write_bytes(png(value))
    return tmp_path


def content(classes, names=NAMES, **parts):
    """Images 0.png, 1.png, ... with ids from 500, each with annotations of these categories."""
    images = [{"id": 500 + i, "file_name": f"{i}.png", "width": 8} for i in range(len(classes))]
    pairs = [(500 + i, category) for i, own in enumerate(classes) for category in own]
    annotations = [{"id": n, "image_id": image, "category_id": category} for n, (image, category) in enumerate(pairs)]
    categories = [{"id": id, "name": name, "supercategory": "animal"} for id, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories} | parts


def written(folder: Path, given, name: str = "list.json") -> Path:
    (folder / name).write_text(given if isinstance(given, str) else json.dumps(given))
    return folder / name


def test_categories_are_numbered_in_the_order_of_their_ids(root, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load_coco_file(written(root, content([[90], [1_400_000], [90, 90], [7]])), root)
    assert dataset.features["label"].names == ["cat", "dog", "owl"]
    assert dataset["label"][:] == [1, 2, 1, 0]
    assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [0, 1, 2, 3]
    assert "the 3 ids of" in caplog.text and "7, 90, 1400000, ... become 0, 1, 2" in caplog.text


def test_train_and_validation_share_their_classes(root):
    train = content([[7], [90]], {7: "cat", 90: "dog"})
    validation = content([[1_400_000], [7]])
    paths = {"train": written(root, train, "train.json"), "validation": written(root, validation, "val.json")}
    splits = load_coco_files(paths, root)
    assert [part["label"][:] for part in splits.values()] == [[0, 1], [2, 0]]
    assert splits["train"].features == splits["validation"].features
    written(root, content([[7]], {7: "bat"}), "val.json")
    with pytest.raises(ValueError, match="val.json: category 7 is 'bat', and 'cat' before"):
        load_coco_files(paths, root)
    del validation["categories"]
    written(root, validation, "val.json")
    with pytest.raises(ValueError, match="val.json: an annotation is of category 1400000, which no file names"):
        load_coco_files(paths, root)


def test_images_with_several_classes_or_none(root, caplog):
    path = written(root, content([[90], [7, 90], [], [7]]))
    with pytest.raises(
        ValueError, match=r"2 of 4 images have .* the first is '1.png' \(cat, dog\).*unclear='leave out'"
    ):
        load_coco_file(path, root)
    with caplog.at_level(logging.WARNING):
        dataset = load_coco_file(path, root, unclear="leave out")
    assert dataset["label"][:] == [1, 0] and "They are left out." in caplog.text
    with pytest.raises(ValueError, match="unclear must be 'refuse' or 'leave out', found 'drop'"):
        load_coco_file(path, root, unclear="drop")
    with pytest.raises(ValueError, match="has no image with one class"):
        load_coco_file(written(root, content([[]])), root, unclear="leave out")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no JSON", "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file: maximum recursion"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "is not a JSON file: Exceeds the limit"),
        ([1], "expected COCO's form, an object whose 'images'"),
        (content([[7]], annotations=[{"image_id": 500}]), "'annotations' is a list of objects with image_id and cat"),
        ({"images": []}, "lists of test sets without annotations have no classes to load"),
        (content([[7]], images=[]), "an annotation is of image 500, which is not among its images"),
        (content([[8]]), "an annotation is of category 8, which no file names"),
        (content([[7]], images=[{"id": 500, "file_name": "0.png"}] * 2), "1 ids of images occur twice"),
        (content([[7]], images=[{"id": 500, "file_name": "../x.png"}]), "'../x.png' leads out of image_root"),
        (content([[7]], images=[{"id": 500, "file_name": None}]), r"'file_name' of images\[0\] must be .* found None"),
        (content([[7]], images=[{"id": [500], "file_name": "0.png"}]), r"'id' of images\[0\] .* found \[500\]"),
        (content([[7]], annotations=[{"image_id": {}, "category_id": 7}]), r"'image_id' of annotations\[0\]"),
        (content([[7]], categories=[{"id": 7, "name": "cat"}, {"id": None, "name": "x"}]), r"'id' of categories\[1\]"),
        (content([[7]], categories=[{"id": 7, "name": None}]), r"'name' of categories\[0\] .* found None"),
        (content([[7]], NAMES | {"z": "zebra"}), "must be all numbers or all strings, found 90 and 'z'"),
    ],
)
def test_bad_files(root, given, message):
    with pytest.raises(ValueError, match=message):
        load_coco_file(written(root, given), root)


def test_an_id_cannot_ask_for_gigabytes(root):
    path = written(root, content([[10**9], [7]], {7: "cat", 10**9: "dog"}))
    with peak_below(50e6):
        dataset = load_coco_file(path, root)
    assert dataset.features["label"].names == ["cat", "dog"] and dataset["label"][:] == [1, 0]


def test_an_address_is_a_path_below_the_root(root, monkeypatch):
    monkeypatch.chdir(root)
    images = [{"id": 500, "file_name": "https://a.example/1.png"}]
    with pytest.raises(FileNotFoundError, match=r"the first are \./https://a.example/1.png"):
        load_coco_file(written(root, content([[7]], images=images)), "")


def test_missing_images_are_named(root):
    path = written(root, content([[7]] * 6))
    with pytest.raises(FileNotFoundError, match=r"2 of 6 images of .*list.json are not under .*4.png, .*5.png$"):
        load_coco_file(path, root)
    assert len(load_coco_file(path, root, check_files=False)) == 6


def test_names_that_categories_share(root):
    dataset = load_coco_file(written(root, content([[7], [8]], {7: "crane", 8: "crane"})), root)
    assert dataset.features["label"].names == ["crane (0)", "crane (1)"]

"""Whatever holds an image, its 8-bit values are the same; what has no known range is refused."""

import io
import logging

import bad_pictures
import numpy as np
import pytest
import tiny
import torch
from datasets import Array2D, Array3D, Dataset, Features, List, Value
from PIL import Image
from torch.utils.data import TensorDataset
from transformers.utils.logging import get_logger

from selmix_hf import Stage1Trainer
from selmix_hf.data.collators import default_collator
from selmix_hf.data.examples import image_columns
from selmix_hf.data.labels import class_labels
from selmix_hf.data.pixels import decoded, num_channels, picture
from selmix_hf.data.views import ShiftAndFlip

GREY = np.arange(0, 240, 8, dtype=np.uint8).reshape(5, 6)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], 2)


@pytest.fixture
def said(caplog):
    get_logger("selmix_hf").warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield caplog


def wide(mode: str) -> Image.Image:
    order = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, (6, 5), (GREY.astype(np.uint16) * 257).astype(order).tobytes())


@pytest.mark.parametrize(
    "value",
    [
        Image.fromarray(GREY),
        *map(wide, ("I;16", "I;16B", "I;16L")),
        Image.fromarray(GREY.astype(np.int32) * 257),
        Image.fromarray(GREY.astype(np.float32) / 255),
        GREY,
        GREY[:, :, None],
        GREY[None],
        GREY.tolist(),
        GREY.astype(np.uint16) * 257,
        GREY / 255,
        torch.as_tensor(GREY),
        torch.as_tensor(GREY)[None],
        torch.as_tensor(GREY).float()[None] / 255,
    ],
    ids=lambda value: (
        value.mode if isinstance(value, Image.Image) else f"{type(value).__name__}-{np.asarray(value).dtype}"
    ),
)
def test_grey_images_of_any_depth(value):
    assert np.array_equal(np.asarray(picture(value, "L")), GREY)
    assert np.array_equal(np.asarray(picture(value)), np.repeat(GREY[:, :, None], 3, 2))


@pytest.mark.parametrize(
    "value",
    [
        Image.fromarray(RGB),
        Image.fromarray(RGB).convert("RGBA"),
        RGB,
        RGB.astype(np.int64).tolist(),
        RGB.transpose(2, 0, 1),
        torch.as_tensor(RGB),
        torch.as_tensor(RGB).permute(2, 0, 1),
        RGB / np.float32(255),
    ],
)
def test_images_in_colour(value):
    assert np.array_equal(np.asarray(picture(value)), RGB)


def test_numbers_of_any_type_in_items_of_a_torch_dataset():
    for value in (GREY / 255, torch.as_tensor(GREY).long(), torch.as_tensor(GREY / 255), GREY > 100):
        assert image_columns([(value, 0)]) == [0] and image_columns([{"image": value, "label": 0}]) == ["image"]
        assert image_columns([{"image": value, "pixel_values": torch.zeros(3, 5, 6)}]) == []
        assert image_columns([{"boxes": value, "label": 0}]) == []
        ready = default_collator([(value, 0)], None, None, None, "label")  # for a model that takes H x W
        assert ready([(value, 0)])["pixel_values"].shape == (1, 5, 6)
    white = torch.ones(5, 6, 3, dtype=torch.bfloat16)
    assert image_columns([(white, 0)]) == [0] and (np.asarray(picture(white)) == 255).all()


def test_black_and_white():
    for value in (Image.fromarray(GREY > 100), GREY > 100, torch.as_tensor(GREY > 100)):
        assert np.array_equal(np.asarray(picture(value, "L")), (GREY > 100) * 255)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (Image.fromarray(GREY.astype(np.float32)), r"mode F must hold values in 0..1, found 0 to 232: divide by"),
        (np.full((4, 4), np.nan), "must hold values in 0..1, found nan to nan"),
        (Image.fromarray(GREY.astype(np.int32)), "mode I must hold 16-bit values, found 0 to 232, .* array of uint8"),
        (Image.fromarray(GREY.astype(np.int32) - 5), "mode I must hold 16-bit values, found -5 to"),
        (GREY.astype(np.int64) * 257, r"\[5, 6\] of int64 must hold values in 0..255, found 0 to 59624"),
        (np.zeros((5, 6, 2)), r"expected an image, or numbers H x W, .* \[5, 6, 2\]"),
        ("a.png", r"expected an image, .* found 'a.png' .* cast_column\(column, datasets.Image\(\)\)"),
        (None, "expected an image, .* found None"),
    ],
)
def test_what_has_no_range_is_refused(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        picture(value)


def test_a_conversion_is_said_once(said):
    for _ in range(3):
        picture(wide("I;16"))
        picture(GREY / 255)
    assert said.messages == [
        "16-bit images are read as values in 0..65535, which become 0..255.",
        "images of floats are read as values in 0..1, which become 0..255.",
    ]


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(said, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    image = picture({"bytes": bad_pictures.jpeg(32, 32), "path": None})
    left, right = np.asarray(image)[:, 0], np.asarray(image)[:, -1]
    assert image.size == (8, 8) and (left[:, 0] > 150).all() and (right[:, 2] > 150).all()
    assert "such as 32 x 32 at 8 x 8" in said.text
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)  # beyond an eighth of the sides
    with pytest.raises(Image.DecompressionBombError):
        decoded({"bytes": bad_pictures.jpeg(32, 32), "path": None})


def test_other_large_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    Image.fromarray(RGB).save(tmp_path / "large.png")
    with pytest.raises(Image.DecompressionBombError):
        decoded({"bytes": None, "path": str(tmp_path / "large.png")})


@pytest.mark.parametrize(
    ("features", "column"),
    [
        ({"x": Array2D((28, 28), "uint8")}, "x"),
        ({"x": Array3D((28, 28, 3), "uint8")}, "x"),
        ({"x": List(List(Value("uint8")))}, "x"),
        ({"image": List(List(Value("int64")))}, "image"),
        ({"image": Array2D((28, 28), "float32")}, "image"),
        ({"photo": {"bytes": Value("binary"), "path": Value("string")}}, "photo"),
        ({"input_ids": List(List(Value("int64")))}, None),
        ({"pixel_values": Array3D((3, 8, 8), "uint8")}, None),
        ({"image": List(Value("uint8"))}, None),
        ({"image": Value("string")}, None),
    ],
)
def test_columns_of_pixels(features, column):
    rows = Dataset.from_dict({name: [] for name in features}, features=Features(features))
    assert image_columns(rows) == ([] if column is None else [column])


class MedMNIST(torch.utils.data.Dataset):
    """As the package of that name has them."""

    def __init__(self, imgs, labels):
        self.imgs, self.labels = imgs, labels

    def __len__(self):
        return len(self.imgs)

    def __getitem__(self, index):
        return Image.fromarray(self.imgs[index]), self.labels[index]


def as_medmnist(kind: str, counts, seed: int):
    """As the files of MedMNIST hold them: uint8 N x H x W x C, labels N x 1."""
    pixels = bad_pictures.arrays(counts, seed)
    labels = np.repeat(np.arange(4), counts)[:, None].astype(np.uint8)
    if kind == "tensors":
        return TensorDataset(torch.as_tensor(pixels), torch.as_tensor(labels))
    if kind == "its own class":
        return MedMNIST(pixels, labels)
    if kind == "pairs":
        return list(zip(pixels, labels, strict=True))
    if kind == "lists":
        return Dataset.from_dict({"image": pixels, "label": labels})
    if kind == "encoded":
        rows = tiny.images(counts, seed)
        return Dataset.from_list(
            [{"image": {"bytes": png(row["image"]), "path": None}, "label": row["label"]} for row in rows]
        )
    features = Features({"picture": Array3D(pixels.shape[1:], "uint8"), "label": List(Value("uint8"))})
    return Dataset.from_dict({"picture": list(pixels), "label": labels}, features=features)


def png(image: Image.Image) -> bytes:
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights_of_plain_images(tmp_path_factory):
    run = tiny.trainer(tmp_path_factory.mktemp("plain"), max_steps=2, refresh_steps=2, **tiny.BARE)
    run.train()
    return tiny.weights(run), run.evaluate()["eval_mean_recall"]


@pytest.mark.parametrize("kind", ["tensors", "pairs", "its own class", "lists", "columns", "encoded"])
def test_a_run_on_arrays_is_that_on_images(kind, weights_of_plain_images, tmp_path):
    sets = as_medmnist(kind, tiny.TRAIN_COUNTS, 0), as_medmnist(kind, tiny.GAIN_COUNTS, 1)
    assert class_labels(sets[0]).tolist() == tiny.images()["label"][:]
    own = {"train_dataset": sets[0], "gain_dataset": sets[1], "max_steps": 2, "refresh_steps": 2}
    run = tiny.trainer(tmp_path, **own, **tiny.BARE)
    run.train()
    weights, recall = weights_of_plain_images
    assert tiny.largest_difference(tiny.weights(run), weights) == 0 and run.evaluate()["eval_mean_recall"] == recall


def test_16_bit_images_are_worth_as_much_in_stage_1(tmp_path):
    """The accuracy of one model on the same grey pictures in 8 and in 16 bits, and as floats."""
    rows = tiny.images((6, 6, 6, 6))
    grey = [np.asarray(image.convert("L")) for image in rows["image"]]
    ways = {
        "8": grey,
        "16": [Image.fromarray(image.astype(np.uint16) * 257) for image in grey],
        "floats": [Image.fromarray(image.astype(np.float32) / 255) for image in grey],
    }
    sets = {
        name: [{"image": x, "label": k} for x, k in zip(way, rows["label"], strict=True)] for name, way in ways.items()
    }
    args = tiny.config(tmp_path, **tiny.BARE)
    run = Stage1Trainer(tiny.model(), args, train_dataset=sets["8"], processing_class=tiny.processor())
    expected = run.predict(sets["8"]).predictions
    for name in ("16", "floats"):
        assert np.array_equal(run.predict(sets[name]).predictions, expected)


def test_a_model_of_one_channel(tmp_path):
    assert num_channels(tiny.model("vit")) == num_channels(tiny.timm_model("test_convnext")) == 3
    assert num_channels(tiny.timm_model("test_convnext", in_chans=1)) == 1
    model, processor = tiny.model("vit", num_channels=1), tiny.processor()
    with pytest.raises(ValueError, match=r"takes images of one channel, .* image_mean=\[0.5\]"):
        tiny.trainer(tmp_path, model, processing_class=processor, **tiny.BARE)
    processor.image_mean = processor.image_std = [0.5]
    run = tiny.trainer(tmp_path, model, processing_class=processor, max_steps=2, refresh_steps=2, **tiny.BARE)
    run.train()
    batch = run.data_collator.eval_collator([tiny.images()[0]])
    grey = torch.as_tensor(np.array(tiny.images()[0]["image"].convert("L")))
    assert torch.allclose(batch["pixel_values"], grey / 127.5 - 1, atol=1e-6)
    seen = []
    own = default_collator(
        tiny.images(), processor, None, lambda image: seen.append(image) or grey[None], "label", model
    )
    assert own([tiny.images()[0]])["pixel_values"].shape == (1, 1, 16, 16) and seen[0].mode == "RGB"
    views = default_collator(tiny.images(), processor, None, ShiftAndFlip(processor), "label", model)
    assert views([tiny.images()[0]])["pixel_values"].shape == (1, 1, 16, 16)

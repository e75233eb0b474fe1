"""Random views against all that there can be of a small image, written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

from selmix_hf.data.views import CropAndFlip, ResizedCropAndFlip, ShiftAndFlip, StrongView, side_of


def pixels_of(image, return_tensors="pt"):
    """In the place of an image processor: the pixels as they are."""
    return {"pixel_values": torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]}


def numbered(height, width):
    """An image with another colour, none of them black, in every pixel."""
    pixels = np.arange(1, 1 + height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels)


def shifted(image, rows, columns):
    """The image moved by up to so many rows and columns, black where nothing was, and each also flipped."""
    pixels = pixels_of(image)["pixel_values"][0]
    height, width = pixels.shape[1:]
    padded = F.pad(pixels, (columns, columns, rows, rows))
    found = [padded[:, i : i + height, j : j + width] for i in range(2 * rows + 1) for j in range(2 * columns + 1)]
    return {tuple(view.flatten().tolist()) for one in found for view in (one, one.flip(2))}


def drawn(view, image, number=400):
    torch.manual_seed(0)
    return {tuple(view(image).flatten().tolist()) for _ in range(number)}


def test_every_crop_of_the_padded_image_and_no_other():
    """Of eight pixels, one more on each side: nine places, flipped or not."""
    image = numbered(8, 8)
    expected = shifted(image, 1, 1)
    assert len(expected) == 18 and drawn(CropAndFlip(pixels_of, 8), image) == expected


def test_a_shift_is_by_up_to_an_eighth_of_each_side():
    image = numbered(8, 10)  # an eighth of ten is 1.25: one pixel
    assert drawn(ShiftAndFlip(pixels_of), image) == shifted(image, 1, 1)
    image = Image.new("RGB", (16, 8), (255, 255, 255))
    moved = [torch.tensor(view).view(3, 8, 16)[0] for view in drawn(ShiftAndFlip(pixels_of), image)]
    assert {int((view.amax(1) == 0).sum()) for view in moved} == {0, 1}
    assert {int((view.amax(0) == 0).sum()) for view in moved} == {0, 1, 2}


def test_a_part_of_a_photograph_becomes_a_square():
    """Brightness grows from left to right: so it does in any part, or falls where that is flipped."""
    image = Image.fromarray(np.tile(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    view, directions, spans = ResizedCropAndFlip(pixels_of, 24), set(), []
    torch.manual_seed(0)
    for _ in range(50):
        row = view(image)[0, 0].int()
        assert row.shape == (24,)
        steps = row.diff().sign()
        directions.add(int(steps.sum().sign()))
        assert not {1, -1} <= set(steps.tolist())
        spans.append(abs(int(row[-1] - row[0])))
    assert directions == {1, -1} and min(spans) < 60 < 80 < max(spans)


def test_the_cutout_is_a_square_of_a_quarter_at_most():
    """In the pixels that the processor gave, here ones whatever the image."""
    view = StrongView(lambda image, return_tensors: {"pixel_values": torch.ones(1, 3, 32, 32)})
    torch.manual_seed(0)
    sides = set()
    for _ in range(100):
        is_cut = view(numbered(5, 5)) == 0
        assert torch.equal(is_cut[0], is_cut[1]) and torch.equal(is_cut[0], is_cut[2])
        rows, columns = is_cut[0].any(1), is_cut[0].any(0)
        assert torch.equal(is_cut[0], rows[:, None] & columns[None]) and rows.sum() == columns.sum()
        sides.add(int(rows.sum()))
    assert 2 <= min(sides) < 5 and 14 < max(sides) <= 16


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ({"data_config": {"input_size": (3, 32, 48)}, "size": {"height": 7}}, 48),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 200}}, 224),
        ({"size": {"shortest_edge": 20}, "crop_size": None}, 20),
        ({"size": {"height": 18, "width": 20}}, 18),
        ({"size": {"longest_edge": 20}}, 99),
        ({}, 99),
    ],
)
def test_the_side_that_a_processor_gives(attributes, side):
    assert side_of(SimpleNamespace(**attributes), default=99) == side


def test_the_side_of_real_processors():
    assert side_of(tiny.processor()) == tiny.SIDE
    assert side_of(tiny.processor(tiny.model("test_convnext"))) == 32
    assert side_of(None) == 224


def test_default_views_take_images_of_any_size():
    from PIL import Image

    torch.manual_seed(0)
    for view in (ShiftAndFlip(tiny.processor()), StrongView(tiny.processor())):
        for size in ((16, 16), (50, 31)):
            image = Image.effect_noise(size, 40).convert("RGB")
            first, second = view(image), view(image)
            assert first.shape == (3, tiny.SIDE, tiny.SIDE) and not torch.equal(first, second)

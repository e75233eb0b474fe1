"""What others made: where examples hold their images, and how tuples are batched."""

import numpy as np
import pytest
import tiny
import torch
from datasets import Array2D, Array3D, ClassLabel, Dataset, Features
from torch_datasets import Mappings, Tuples

from selmix_hf.data.collators import default_collator
from selmix_hf.data.examples import collate_tuples, image_columns, value_of


def test_where_the_images_are():
    assert image_columns(tiny.images().rename_column("image", "picture")) == ["picture"]
    assert image_columns(Tuples()) == [0] and image_columns(Mappings()) == ["photo"]
    assert image_columns(Tuples(transform=tiny.to_tensor)) == [] == image_columns([torch.zeros(2)])
    batch = collate_tuples([(torch.zeros(3, 2, 2), 1), (torch.ones(3, 2, 2), 0)])
    assert batch["pixel_values"].shape == (2, 3, 2, 2) and batch["labels"].tolist() == [1, 0]


def test_ready_inputs_are_kept_beside_pixels_and_images():
    pixels, mask = torch.rand(3, 8, 8), np.zeros((8, 8), np.uint8)
    features = {"pixel_values": Array3D((3, 8, 8), "float32"), "mask": Array2D((8, 8), "uint8")}
    rows = {"pixel_values": [pixels.numpy()], "mask": [mask], "label": [2]}
    columns = Dataset.from_dict(rows, Features(features | {"label": ClassLabel(num_classes=4)})).with_format("torch")
    image = tiny.images()[0]["image"]
    items = (
        [{"pixel_values": pixels, "mask": mask, "label": 2}],
        [{"pixel_values": pixels, "photo": image, "label": 2}],
    )
    for dataset in (columns, *items):
        assert image_columns(dataset) == []
        batch = default_collator(dataset, tiny.processor(), None, None, "label")([dataset[0]])
        assert torch.equal(batch["pixel_values"], pixels[None]) and batch["labels"].tolist() == [2]
    assert image_columns([{"pixel_values": image, "mask": mask}]) == ["pixel_values"]


@pytest.mark.parametrize(
    ("example", "column", "sentence"),
    [
        (("image", 1), "image", "training and gain sets are mappings with named fields, those of this set pairs"),
        ({"image": "image"}, 0, r"training and gain sets are pairs \(image, class\), those of this set mappings"),
        ({"photo": "image"}, "image", "expected the image of an example in 'image', .* found photo: call rename"),
    ],
)
def test_sets_of_another_kind(example, column, sentence):
    with pytest.raises(ValueError, match=sentence):
        value_of(example, column, "image")

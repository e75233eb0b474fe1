"""What others made: where examples hold their images, and how tuples are batched."""

import tiny
import torch
from torch_datasets import Mappings, Tuples

from selmix_hf.data.examples import collate_tuples, image_columns


def test_where_the_images_are():
    assert image_columns(tiny.images().rename_column("image", "picture")) == ["picture"]
    assert image_columns(Tuples()) == [0] and image_columns(Mappings()) == ["photo"]
    assert image_columns(Tuples(transform=tiny.to_tensor)) == [] == image_columns([torch.zeros(2)])
    batch = collate_tuples([(torch.zeros(3, 2, 2), 1), (torch.ones(3, 2, 2), 0)])
    assert batch["pixel_values"].shape == (2, 3, 2, 2) and batch["labels"].tolist() == [1, 0]

"""Random views of training images, made before the checkpoint's own image processor runs."""

from __future__ import annotations

from typing import Any

import torch


class CropAndFlip:
    """A random crop of the padded image and a random flip, then whatever the checkpoint's own processor does.

    Args:
        processor: an image processor of transformers.
        side: of the crop in pixels, that of the images.
    """

    def __init__(self, processor: Any, side: int) -> None:
        from torchvision.transforms import v2

        self.processor = processor
        self.augment = v2.Compose([v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()])

    def __call__(self, image: Any) -> torch.Tensor:
        return self.processor(self.augment(image), return_tensors="pt")["pixel_values"][0]


class ResizedCropAndFlip(CropAndFlip):
    """For photographs of any size: a random part (8% to all of the area) scaled to a square, and a random flip."""

    def __init__(self, processor: Any, side: int) -> None:
        from torchvision.transforms import v2

        self.processor = processor
        self.augment = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()])


def side_of(processor: Any, default: int = 224) -> int:
    """The side in pixels that an image processor gives."""
    data_config = getattr(processor, "data_config", None)
    if data_config is not None:  # timm
        return int(data_config["input_size"][-1])
    for size in (getattr(processor, name, None) for name in ("crop_size", "size")):
        for key in ("height", "shortest_edge"):
            if size and key in size:
                return int(size[key])
    return default

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

    def __call__(self, image: Any) -> Any:
        """C x H x W, or all inputs of the model by name where the processor makes several."""
        inputs = {name: rows[0] for name, rows in self.processor(self.augment(image), return_tensors="pt").items()}
        return inputs if len(inputs) > 1 else inputs["pixel_values"]


class ResizedCropAndFlip(CropAndFlip):
    """For photographs of any size: a random part (8% to all of the area) scaled to a square, and a random flip."""

    def __init__(self, processor: Any, side: int) -> None:
        from torchvision.transforms import v2

        self.processor = processor
        self.augment = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()])


class ShiftAndFlip(CropAndFlip):
    """For images of any size: a shift by up to an eighth of each side and a flip, as `CropAndFlip` of the whole image.

    The weak view of FixMatch (Sohn et al. 2020, arXiv 2001.07685, section 2.3), with black where nothing was.
    """

    def __init__(self, processor: Any) -> None:
        from torchvision.transforms import v2

        self.processor = processor
        self.augment = v2.Compose([v2.RandomAffine(0, translate=(1 / 8, 1 / 8)), v2.RandomHorizontalFlip()])


class StrongView(ShiftAndFlip):
    """`ShiftAndFlip`, two operations of RandAugment at a random strength, and after the processor a cutout: a square
    of up to a quarter of the area becomes 0, which is the mean colour where the processor normalises.

    The strong view of FixMatch with RandAugment (same paper, section 2.3).
    """

    def __init__(self, processor: Any) -> None:
        from torchvision.transforms import v2

        super().__init__(processor)
        any_strength = v2.RandomChoice([v2.RandAugment(2, magnitude) for magnitude in range(1, 31)])
        self.augment = v2.Compose([self.augment, any_strength])
        self.cutout = v2.RandomErasing(p=1, scale=(0.0025, 0.25), ratio=(1, 1))

    def __call__(self, image: Any) -> torch.Tensor:
        view: torch.Tensor = self.cutout(super().__call__(image))
        return view


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

"""A miniature of ImageNet-LT with the real one's layout: folders of small images, three list files, a tiny checkpoint.

    python -m benchmarks.miniature_imagenet miniature_imagenet
    HF_HUB_OFFLINE=1 accelerate launch recipes/imagenet1k_lt.py --config recipes/configs/imagenet1k_lt_miniature.yaml

It is for checking that a run at K = 1000 works and where its time goes, not for accuracy: each class is a colour
gradient of its own that varies, under noise; the checkpoint's backbone is random, its head takes the nearest mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from selmix_hf.data.collators import ImageCollator
from selmix_hf.data.list_files import load_list_file
from selmix_hf.data.long_tail import long_tailed_counts
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.models.head_search import find_head

ARCHITECTURE = "test_convnext"


def write_images(
    folder: Path, num_classes: int, max_per_class: int, held_out_per_class: int, side: int, prefix: str = "ImageNet_LT"
) -> None:
    """Images in train/<class>/ and val/<class>/, and <prefix>_train.txt, _val.txt and _test.txt; as in ImageNet-LT,
    the validation images come from train/ and the test images from val/."""
    random = np.random.default_rng(0)
    corners = random.normal(128, 40, (num_classes, 2, 2, 3))
    train_counts = long_tailed_counts(num_classes, max_per_class, max_per_class / 2, "pareto")
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for k, count in enumerate(train_counts):
        for part, number in (("train", count), ("val", held_out_per_class), ("test", held_out_per_class)):
            place = Path("val" if part == "test" else "train") / f"n{k:08d}"
            (folder / place).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                own = (corners[k] + random.normal(0, 20, (2, 2, 3))).clip(0, 255).astype(np.uint8)
                smooth = np.asarray(Image.fromarray(own).resize((side, side), Image.Resampling.BILINEAR))
                noisy = smooth + random.normal(0, 25, (side, side, 3))
                path = place / f"{part}_{i}.JPEG"
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / path)
                lists[part].append(f"{path.as_posix()} {k}")
    for part, lines in lists.items():
        (folder / f"{prefix}_{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_checkpoint(folder: Path, images: Path, side: int, prefix: str = "ImageNet_LT") -> None:
    """A tiny timm network with random weights; its head tells classes apart by their mean features in training."""
    torch.manual_seed(0)
    train = load_list_file(images / f"{prefix}_train.txt", images)
    num_classes = train.features["label"].num_classes
    pixels = {"input_size": [3, side, side], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = TimmWrapperConfig(
        architecture=ARCHITECTURE, pretrained_cfg={**pixels, "crop_pct": 1.0}, num_labels=num_classes
    )
    model = TimmWrapperForImageClassification(config)
    collator = ImageCollator(TimmWrapperImageProcessor(config.pretrained_cfg, ARCHITECTURE))
    head = find_head(model, {"pixel_values": torch.zeros(1, 3, side, side)})
    mean_KD = DatasetPass(model, head, batch_size=100).statistics(train, collator).centroids
    centre_D, spread_D = mean_KD.mean(0), mean_KD.std(0) + 1e-6
    scaled_KD = (mean_KD - centre_D) / spread_D
    with torch.no_grad():
        weight_KD = 0.2 * scaled_KD / spread_D  # 0.2: logits of a trained network's size
        head.modules[0].weight.copy_(weight_KD)
        head.modules[0].bias.copy_(-(weight_KD * centre_D).sum(1) - 0.1 * (scaled_KD**2).sum(1))
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num_classes", type=int, default=1000)
    parser.add_argument("--max_per_class", type=int, default=128, help="of the largest class; the smallest has 2")
    parser.add_argument("--held_out_per_class", type=int, default=5, help="validation and test images, each")
    parser.add_argument("--side", type=int, default=32, help="in pixels")
    options = parser.parse_args()
    write_images(options.folder, options.num_classes, options.max_per_class, options.held_out_per_class, options.side)
    write_checkpoint(options.folder / "checkpoint", options.folder, options.side)
    print(f"{sum(1 for _ in options.folder.rglob('*.JPEG')):,} images of {options.num_classes} classes.")


if __name__ == "__main__":
    main()

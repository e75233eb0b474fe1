"""One ImageNet image a class, augmented into the layout of ImageNet-LT: real features at K = 1000.

    SELMIX_REFERENCE_DATA=... python -m benchmarks.imagenet_sample imagenet_sample
    accelerate launch recipes/imagenet1k_lt.py --image_root imagenet_sample --lists imagenet_sample \\
        --model_name_or_path $SELMIX_REFERENCE_DATA/checkpoints/imagenet1k-tf_efficientnet_lite0 \\
        --image_size 160 --freeze_backbone --output_dir imagenet_sample_run

Every image becomes n_k training images (20 down to 1, exponential), 4 validation and 2 test images by random crops,
flips and colours. All of them come from one photograph a class, so this checks the plumbing and the time at
ImageNet's K on real features; its figures say nothing about ImageNet.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from datasets import Dataset
from torchvision.transforms import v2

from selmix_hf.data.long_tail import long_tailed_counts

SIDE, MOST, FEWEST, VALIDATION, TEST = 160, 20, 1, 4, 2
PUBLISHED = {"train": "ImageNet_LT_train.txt", "val": "ImageNet_LT_val.txt", "test": "ImageNet_LT_test.txt"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="to write images and lists into")
    folder = parser.parse_args(argv).folder
    root = Path(os.environ["SELMIX_REFERENCE_DATA"])
    images = Dataset.from_parquet(str(root / "data" / "imagenet_sample" / "validation.parquet"))
    torch.manual_seed(0)
    augment = v2.Compose(
        [v2.RandomResizedCrop(SIDE, scale=(0.3, 1)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)]
    )
    # which classes are frequent is drawn: the labels are sorted by kind of thing
    train_counts = torch.tensor(long_tailed_counts(len(images), MOST, MOST / FEWEST))[torch.randperm(len(images))]
    lists: dict[str, list[str]] = {part: [] for part in PUBLISHED}
    for row in images:
        k = row["label"]
        for part, copies in (("train", int(train_counts[k])), ("val", VALIDATION), ("test", TEST)):
            (folder / part / row["wnid"]).mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                path = f"{part}/{row['wnid']}/{row['wnid']}_{copy}.JPEG"
                augment(row["image"].convert("RGB")).save(folder / path, quality=90)
                lists[part].append(f"{path} {k}")
    for part, name in PUBLISHED.items():
        (folder / name).write_text("\n".join(lists[part]) + "\n", encoding="utf-8")
    print(", ".join(f"{len(lines):,} {part}" for part, lines in lists.items()), "images in", folder)


if __name__ == "__main__":
    main()

"""Fine-tune any checkpoint on ImageNet-LT (1,000 classes, 1,280 down to 5 images).

    accelerate launch recipes/imagenet1k_lt.py --config recipes/configs/imagenet1k_lt_min_head_tail.yaml \\
        --model_name_or_path <checkpoint trained on ImageNet-LT, or with --stage1_steps any pretrained one> \\
        --image_root <folder that holds train/ and val/ of ImageNet-1k> --lists <folder of the list files>

Data: ImageNet-1k's images, unpacked into class folders, and the lists ImageNet_LT_train.txt, ImageNet_LT_val.txt (20 a
class, they steer and select) and ImageNet_LT_test.txt (50 a class) of Liu et al. 2019 (OLTR). Labels are numbers in
the lists; `--class_names names.txt` gives them names, one a line. Or instead of lists `--dataset`: a Hub id or a
folder of parquet files, made long-tailed here (`--test_split validation` where the test labels are withheld).

Published (SelMix paper, percent): mean 52.4, min head-tail 29.7 and smallest coverage .00068 before; 52.8, 45.1 and
.00099 after. The settings that are known are in configs/imagenet1k_lt_paper.yaml. Result on the real images, time and
memory are not measured here; K = 1000 in miniature is, in recipes/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selmix_hf.models.loading import load_images
from selmix_hf.studies.command_line import with_default
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import LongTailedArguments, drawn_data
from selmix_hf.studies.published_lists import ListArguments, load_published
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import BenchmarkArguments

FILES = {"train": "ImageNet_LT_train.txt", "validation": "ImageNet_LT_val.txt", "test": "ImageNet_LT_test.txt"}
SOURCE = (
    "The lists are published with OLTR (https://github.com/zhmiao/OpenLongTailRecognition-OLTR); the images are those "
    "of ImageNet-1k (https://www.image-net.org), in the folders train/ and val/ that the lists' paths begin with."
)


@dataclass(kw_only=True)
class Arguments(ListArguments, LongTailedArguments, BenchmarkArguments):
    dataset: str | None = field(
        default=None, metadata={"help": "The images, instead of list files: a Hub id, or a folder of parquet files."}
    )
    test_split: str = field(default="test", metadata={"help": "The split of --dataset that is the test set."})
    imbalance_factor: float = with_default(LongTailedArguments, "imbalance_factor", 256)
    validation_per_class: int = with_default(LongTailedArguments, "validation_per_class", 20)


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    if arguments.dataset is None:
        splits, digest = load_published(arguments, FILES, SOURCE)
        return BenchmarkData(splits, digest, "ImageNet-LT", "ILSVRC/imagenet-1k", photos=True)
    if arguments.image_root is not None:
        raise ValueError(
            "--image_root belongs to the list files, --dataset is made long-tailed here: give one of them."
        )
    dataset = load_images(arguments.dataset, arguments.test_split)
    hub_id = None if Path(arguments.dataset).exists() else arguments.dataset
    name = f"{Path(arguments.dataset).name}, long-tailed"
    return drawn_data(arguments, dataset, folder, name, hub_id, photos=True, profile="pareto")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("imagenet1k_lt.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

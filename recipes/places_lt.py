"""Fine-tune any checkpoint on Places-LT (365 scenes, 4,980 down to 5 images).

    accelerate launch recipes/places_lt.py --config recipes/configs/places_lt_min_head_tail.yaml \\
        --model_name_or_path <checkpoint trained on Places-LT, or with --stage1_steps any pretrained one> \\
        --image_root <folder that holds data_256/ and val_256/ of Places365> --lists <folder of the list files>

Data: the small images (256 x 256) of Places365-Standard, unpacked, and Places_LT_train.txt, Places_LT_val.txt (20 a
class, they steer and select) and Places_LT_test.txt (100 a class) of Liu et al. 2019 (OLTR). `--class_names` names a
file with the 365 scenes in order, one a line.

Published by the SelMix paper: nothing. Result, time and memory are not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.published_lists import ListArguments, load_published
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import BenchmarkArguments

FILES = {"train": "Places_LT_train.txt", "validation": "Places_LT_val.txt", "test": "Places_LT_test.txt"}
SOURCE = (
    "The lists are published with OLTR (https://github.com/zhmiao/OpenLongTailRecognition-OLTR); the images are the "
    "small ones of Places365-Standard (http://places2.csail.mit.edu), in the folders that the lists' paths begin with."
)


@dataclass(kw_only=True)
class Arguments(ListArguments, BenchmarkArguments):
    """No options of its own."""


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    return BenchmarkData(*load_published(arguments, FILES, SOURCE), "Places-LT", photos=True)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("places_lt.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

"""Fine-tune any checkpoint on iNaturalist 2018 (8,142 species, 1,000 down to 2 images).

    accelerate launch recipes/inaturalist2018.py --config recipes/configs/inaturalist2018_mean_recall.yaml \\
        --model_name_or_path <checkpoint trained on iNaturalist 2018, or with --stage1_steps any pretrained one> \\
        --image_root <folder that holds train_val2018/> --lists <folder of the list files>

Data: the archive train_val2018, unpacked, and iNaturalist18_train.txt and iNaturalist18_val.txt (three a class), or
the competition's own train2018.json and val2018.json.
**No labelled test set is published**, so the validation list is divided: `--steering_per_class` of its images (1)
steer and select, the others (2 a class) are the test set, drawn by `--division_seed`. The output says so too. Numbers
are therefore not those of papers that report on the whole validation list, and with one steering image a class the
gains are noisy: prefer mean recall to minima. The checkpoint must not have been chosen on the test part.

Published by the SelMix paper: nothing. Result and time on the real images are not measured here. At K = 8142 a refresh
takes a CPU core 24 s for the gain, with 1.3 GB of memory, and 1.6 s for P (docs/performance.md).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from selmix_hf.data.labels import class_labels
from selmix_hf.data.long_tail import long_tailed_split
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.published_lists import ListArguments, load_published
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import BenchmarkArguments

FILES = {"train": "iNaturalist18_train.txt", "validation": "iNaturalist18_val.txt"}
COCO = {"train": "train2018.json", "validation": "val2018.json"}
SOURCE = (
    "The lists are published with Decoupling (https://github.com/facebookresearch/classifier-balancing); the images "
    "are train_val2018 of https://github.com/visipedia/inat_comp/tree/master/2018, below the folder that the lists' "
    "paths begin in."
)


@dataclass(kw_only=True)
class Arguments(ListArguments, BenchmarkArguments):
    steering_per_class: int = field(
        default=1,
        metadata={"help": "Validation images of each class that steer and select; the rest is the test set."},
    )
    division_seed: int = field(
        default=0, metadata={"help": "Seed that divides the validation images into those that steer and the test set."}
    )


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    splits, digest = load_published(arguments, FILES, SOURCE, COCO)
    labels = class_labels(splits["validation"])
    fewest = int(np.bincount(labels, minlength=splits["train"].features["label"].num_classes).min())
    if fewest < 2:
        raise ValueError(
            f"{FILES['validation']} must have two images of every class or more, of three that are published; it has "
            f"{fewest} of its smallest. {SOURCE}"
        )
    steering = arguments.steering_per_class
    if not 0 < steering < fewest:
        raise ValueError(
            f"--steering_per_class must leave a test image of every class: expected 1 to {fewest - 1}, as the "
            f"validation list has {fewest} images of its smallest class; found {steering}."
        )
    division = long_tailed_split(
        labels, 1, max_per_class=fewest - steering, validation_per_class=steering, seed=arguments.division_seed
    )
    parts = DatasetDict(
        train=splits["train"],
        validation=splits["validation"].select(division.validation),
        test=splits["validation"].select(division.train),
    )
    digest = hashlib.sha256(f"{digest}{division.digest}".encode()).hexdigest()
    remark = (
        f"No labelled test set is published: {steering} of the {fewest} validation images of each class steer and "
        f"select, the other {fewest - steering} are the test set."
    )
    return BenchmarkData(parts, digest, "iNaturalist 2018, test: part of val", photos=True, remark=remark)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("inaturalist2018.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

"""Semi-supervised STL-10: 100,000 unlabelled images of an unknown distribution, some of no class at all.

    accelerate launch recipes/stl10_ssl.py --config recipes/configs/stl10_ssl_paper.yaml \\
        --model_name_or_path <any pretrained model, or wrn_37_2> --dataset <Hub id or folder>

Data: STL-10 (Coates et al. 2011) as a Hub id with the splits train, test and unlabeled, or a folder with
train.parquet (5,000 labelled images), test.parquet (8,000) and unlabeled.parquet (100,000; a label column, if it has
one, is not read). Of the 500 labelled images of each class 50 are the validation set, and the others are made
long-tailed: N1 = 450, rho = 10. Nobody knows the classes of the unlabelled images, so there is no accuracy of
pseudo-labels here and no oracle.

Published numbers of the SelMix paper for it are not at hand. Result, time and memory are not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selmix_hf.models.loading import load_images
from selmix_hf.studies.command_line import with_default
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import LongTailedArguments, SemiSupervisedArguments, drawn_data
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import SemiSupervisedStart


@dataclass(kw_only=True)
class Arguments(LongTailedArguments, SemiSupervisedStart):
    dataset: str = field(
        metadata={"help": "The images: a Hub id, or a folder with train, test and unlabeled as parquet files."}
    )
    imbalance_factor: float = with_default(SemiSupervisedArguments, "imbalance_factor", 10)
    max_per_class: int | None = with_default(SemiSupervisedArguments, "max_per_class", 450)
    validation_per_class: int = with_default(LongTailedArguments, "validation_per_class", 50)
    use_unlabeled: bool = with_default(SemiSupervisedArguments, "use_unlabeled", True)


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    dataset = load_images(arguments.dataset, more=["unlabeled"])
    data = drawn_data(arguments, dataset, folder, "STL-10, long-tailed")
    data.splits["unlabeled"] = dataset["unlabeled"].select_columns(data.image_column)
    return data


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("stl10_ssl.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

"""Fine-tune any checkpoint for CIFAR-100-LT: mean recall, or the smaller of head and tail recall.

    accelerate launch recipes/cifar100_lt.py --config recipes/configs/cifar100_lt_min_head_tail.yaml \\
        --model_name_or_path <checkpoint trained on CIFAR-100-LT, or with --stage1_steps any pretrained one>

Data: `uoft-cs/cifar100` is fetched from the Hub (its fine_label is the class), or `--dataset` names a folder with
train.parquet and test.parquet. 50 validation images a class are set aside, as in the paper, and the other training
images are made long-tailed: `--imbalance_factor 100`, 50 or 10. A checkpoint that was trained elsewhere must not have
seen the validation images: give its `--split split.json`. The 10,000 test images are looked at before and after.

Published (SelMix paper, rho = 100, stage 1 of MiSLAS, percent): mean 47.0 and min head-tail 15.2 before; optimised for
mean recall 48.3, for min head-tail 41.3; H-mean 38.2, G-mean 42.3. Settings: configs/cifar100_lt_paper.yaml.
Result, time and memory are not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selmix_hf.models.loading import load_images
from selmix_hf.studies.command_line import with_default
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import LongTailedArguments, drawn_data
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import BenchmarkArguments


@dataclass(kw_only=True)
class Arguments(LongTailedArguments, BenchmarkArguments):
    usual_label_column = "fine_label"  # not one of the twenty superclasses
    dataset: str = field(
        default="uoft-cs/cifar100",
        metadata={"help": "The images: a Hub id, or a folder with train.parquet and test.parquet."},
    )
    validation_per_class: int = with_default(LongTailedArguments, "validation_per_class", 50)


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    name = f"CIFAR-100-LT (rho = {arguments.imbalance_factor:g})"
    return drawn_data(arguments, load_images(arguments.dataset), folder, name, "uoft-cs/cifar100")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("cifar100_lt.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

"""Semi-supervised CIFAR-100-LT: N1 = 150 labelled and M1 = 300 unlabelled images of the first class, rho = 10.

    accelerate launch recipes/cifar100_lt_ssl.py --config recipes/configs/cifar100_lt_ssl_paper.yaml \\
        --model_name_or_path <any pretrained model, or wrn_28_2>

Data: `uoft-cs/cifar100` from the Hub (its fine_label is the class), or `--dataset` with a folder of train.parquet and
test.parquet; 50 validation images a class are set aside first, which leaves 450 for the first class. Stage 1 and
SelMix use the unlabelled images as in cifar10_lt_ssl.py.

Published (SelMix paper, percent): min head-tail recall 34.6 for FixMatch(LA), 57.8 after SelMix, mean recall 58.8 and
59.8. Result, time and memory are not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selmix_hf.models.loading import load_images
from selmix_hf.studies.command_line import with_default
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import SemiSupervisedArguments, drawn_data
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import SemiSupervisedStart


@dataclass(kw_only=True)
class Arguments(SemiSupervisedArguments, SemiSupervisedStart):
    usual_label_column = "fine_label"  # not one of the twenty superclasses
    dataset: str = field(
        default="uoft-cs/cifar100",
        metadata={"help": "The images: a Hub id, or a folder with train.parquet and test.parquet."},
    )
    imbalance_factor: float = with_default(SemiSupervisedArguments, "imbalance_factor", 10)
    unlabeled_imbalance_factor: float = with_default(SemiSupervisedArguments, "unlabeled_imbalance_factor", 10)
    max_per_class: int | None = with_default(SemiSupervisedArguments, "max_per_class", 150)
    unlabeled_max_per_class: int | None = with_default(SemiSupervisedArguments, "unlabeled_max_per_class", 300)
    validation_per_class: int = with_default(SemiSupervisedArguments, "validation_per_class", 50)


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    name = f"CIFAR-100-LT, partly labelled (rho = {arguments.imbalance_factor:g})"
    return drawn_data(arguments, load_images(arguments.dataset), folder, name, "uoft-cs/cifar100")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("cifar100_lt_ssl.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

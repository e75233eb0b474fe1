"""Semi-supervised CIFAR-10-LT: few labels, long-tailed, and unlabelled images of the same or of another distribution.

    accelerate launch recipes/cifar10_lt_ssl.py --config recipes/configs/cifar10_lt_ssl_min_recall.yaml \\
        --model_name_or_path <any pretrained model> --dataset uoft-cs/cifar10 --unlabeled_imbalance_factor 1

Of CIFAR-10's training images (from the Hub, or a folder with train.parquet and test.parquet) 500 a class are the
validation set, N1 = 1,500 of the first class down to 15 of the last are labelled, and M1 = 3,000 of the most frequent
class are unlabelled: `--unlabeled_imbalance_factor` 100, 1 (uniform) or 0.01 (inverted). Stage 1 (`--stage1_method`
fixmatch, mean_teacher, mixmatch or supervised) trains the model on both; SelMix then draws second samples from the
unlabelled images by their pseudo-labels, or with `--use_unlabeled false` from the labelled ones alone. True labels of
unlabelled images are never seen, but for the accuracy of the pseudo-labels in results.json and for the upper bound
`--pseudo_label_source oracle`. `--model_name_or_path wrn_28_2` is the papers' network with random weights.

Measured: docs/semi_supervised.md. Published (SelMix paper, WRN-28-2, rho_l = rho_u = 100, percent): FixMatch(LA) mean
79.7, min 55.9, H-mean 76.7 and smallest coverage .056; SelMix 85.4, 79.1, 85.1 and .095 (for its objectives in turn).
The settings are in configs/cifar10_lt_ssl_paper.yaml, and that run was not measured here.
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
    dataset: str = field(metadata={"help": "The images: a Hub id, or a folder with train.parquet and test.parquet."})
    max_per_class: int | None = with_default(SemiSupervisedArguments, "max_per_class", 1500)
    unlabeled_max_per_class: int | None = with_default(SemiSupervisedArguments, "unlabeled_max_per_class", 3000)


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    rho = f"rho_l = {arguments.imbalance_factor:g}, rho_u = {arguments.unlabeled_imbalance_factor:g}"
    return drawn_data(arguments, load_images(arguments.dataset), folder, f"CIFAR-10-LT ({rho})", "uoft-cs/cifar10")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("cifar10_lt_ssl.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

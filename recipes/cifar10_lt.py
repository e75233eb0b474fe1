"""Fine-tune any checkpoint for CIFAR-10-LT's worst class, mean recall, H-mean or coverage.

    accelerate launch recipes/cifar10_lt.py --config recipes/configs/cifar10_lt_min_recall.yaml \\
        --model_name_or_path <checkpoint trained on CIFAR-10-LT: Hub id or folder> --dataset uoft-cs/cifar10

Every option of SelMixConfig works, in the YAML file or on the command line: `--objective h_mean --max_steps 500`. The
data come from the Hub or from a folder with train.parquet and test.parquet. They are made long-tailed here, or by a
saved split (`--split split.json`): the checkpoint must not have seen the validation images, so give the split that it
was trained on, or train it here (`--stage1_steps 2000`, from any pretrained model). The validation images steer SelMix
and choose the checkpoint; the test images are looked at once before and once after. `--seeds 0 1 2` repeats the run
and adds the spread.

Into output_dir go the model (ready for `pipeline`), the plots, split.json, results.json and the card.

Measured (README, "Results", with the commands): test min recall .623 to .663 ± .001 and mean recall .738 to .749 ±
.001 over three seeds, from a tf_efficientnet_lite0 with a frozen backbone. Three seeds with the
defaults took 221 s on one core of an Intel Xeon (46 s for the features, 125 s for four looks at the test images) and
1.1 GiB of memory; training all weights (configs/cifar10_lt_whole_network.yaml) took 995 to 1,364 s a seed.
Published (SelMix paper, stage 1 of MiSLAS, percent): mean 81.9 and min 72.5 before, mean 83.3, min 79.2, H-mean 82.6
and G-mean 82.8 after; the settings are in configs/cifar10_lt_paper.yaml, and that run was not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selmix_hf.models.loading import load_images
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.drawn_splits import LongTailedArguments, drawn_data
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import BenchmarkArguments


@dataclass(kw_only=True)
class Arguments(LongTailedArguments, BenchmarkArguments):
    dataset: str = field(metadata={"help": "The images: a Hub id, or a folder with train.parquet and test.parquet."})


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    name = f"CIFAR-10-LT (rho = {arguments.imbalance_factor:g})"
    return drawn_data(arguments, load_images(arguments.dataset), folder, name, "uoft-cs/cifar10")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    return run_recipe("cifar10_lt.py", Arguments, load, argv)


if __name__ == "__main__":
    main()

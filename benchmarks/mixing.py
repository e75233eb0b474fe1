"""What a step costs where images are mixed instead of features.

    OMP_NUM_THREADS=1 python -m benchmarks.mixing
    OMP_NUM_THREADS=1 python -m benchmarks.mixing --architecture resnet50 --pixels 96 --json mixing.json

SelMixTrainer with each `mixing`, by turns in one process: processor seconds a step, which other work on the machine
hardly changes; the refresh before it left out. A timm network with random weights on random images, no evaluation
and no checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.gain import hardware
from benchmarks.network import seconds_a_step, trainer
from benchmarks.pairs import ratio
from selmix_hf.mixing.registry import MIXING
from selmix_hf.reports.tables import markdown_table


def passes(name: str) -> str:
    """In images a pair: forward and backward."""
    entry = MIXING[name]
    return f"{1 if entry.before_model else 2} for training" + ", 2 for saliency" * entry.needs_saliency


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each mixing, the best of the repeats, and ratios with their spread over them."""
    seconds = result["seconds"]
    rows = [
        [f"`{name}`", passes(name), f"{min(own):.3f}", ratio(own, seconds["feature"])] for name, own in seconds.items()
    ]
    return markdown_table(["mixing", "images a pair", "processor s a step", "of `feature`"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="pairs")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    options.validation = 64
    seconds: dict[str, list[float]] = {name: [] for name in MIXING}
    for _ in range(options.repeats):
        for name, own in seconds.items():
            own.append(seconds_a_step(trainer(options, True, options.batch, mixing=name), time.process_time))
    shape = {name: getattr(options, name) for name in ("architecture", "pixels", "batch", "steps")}
    result = {"hardware": hardware(), **shape, "seconds": seconds}
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

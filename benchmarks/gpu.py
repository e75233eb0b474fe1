"""The ratios of docs/performance.md on one GPU.

    python -m benchmarks.gpu --json gpu.json

By turns in one process: the gain matrix against its bare products; 2,000 steps on stored features against stock
Trainer; a step of B pairs of the whole network against stock Trainer on 2B images, in float32 and in bfloat16; a
refresh against a bare pass over the validation set.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks import frozen, network
from benchmarks.gain import bare_products, make_inputs
from benchmarks.pairs import by_turns, ratio
from selmix_hf.method.gain import gain_matrix
from selmix_hf.reports.tables import markdown_table

Seconds = list[list[float]]


def finished(function: Callable[[], object]) -> Callable[[], None]:
    """Waits until the GPU has done it."""

    def run() -> None:
        function()
        torch.cuda.synchronize()

    return run


def of_gain(num_classes: int, num_features: int, repeats: int) -> Seconds:
    inputs = [tensor.cuda() for tensor in make_inputs(num_classes, num_features)]
    ours, bare = finished(lambda: gain_matrix(*inputs)), finished(lambda: bare_products(*inputs))
    for warm_up in (ours, bare):
        warm_up()
    return by_turns(repeats, ours, bare)


def of_features(repeats: int) -> Seconds:
    options = SimpleNamespace(steps=2000, refreshes=40, batch=64, features=1280, classes=10)
    train, gain = frozen.drawn_set(12_000, 1280, 10, 0), frozen.drawn_set(5_000, 1280, 10, 1)
    seconds: Seconds = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            seconds[0].append(frozen.selmix(options, train, gain, folder)[0])
            seconds[1].append(frozen.stock(options, train, folder))
    return seconds


def whole_network(repeats: int, bf16: bool = False) -> SimpleNamespace:
    """Options of `benchmarks.network`."""
    sizes = {"architecture": "resnet50", "pixels": 224, "batch": 64, "steps": 20, "validation": 1024}
    return SimpleNamespace(**sizes, repeats=repeats, bf16=bf16)


def table(result: dict[str, Any]) -> str:
    """Markdown: the best of the repeats, and ratios with their spread over them."""
    cells = [
        [title, f"{min(ours):.3g}", f"{min(beside):.3g}", ratio(ours, beside)]
        for title, (ours, beside) in result["seconds"].items()
    ]
    return markdown_table(["s", "selmix_hf", "beside", "ratio"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    seconds: dict[str, Seconds] = {}
    for num_classes, num_features in ((1000, 1280), (4000, 1280), (8142, 2048)):
        seconds[f"gain, K = {num_classes:,}"] = of_gain(num_classes, num_features, options.repeats)
    seconds["2,000 steps on stored features"] = of_features(max(2, options.repeats // 2))
    options_of = {"float32": whole_network(options.repeats), "bfloat16": whole_network(options.repeats, bf16=True)}
    for precision, given in options_of.items():
        seconds[f"step of 64 pairs, ResNet-50 at 224 px, {precision}"] = [*network.step(given).values()]
    seconds["refresh, 1,024 validation images"] = [*network.refresh(options_of["float32"]).values()]
    result = {"hardware": torch.cuda.get_device_name(), "torch": torch.__version__, "seconds": seconds}
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

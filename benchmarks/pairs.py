"""Seconds of one refresh's pair distribution and draws at many classes.

    python -m benchmarks.pairs
    python -m benchmarks.pairs --sizes 1000 8142 --pairs 200000 --json pairs.json

For each number of classes K, on random gains of which half are positive: `pair_distribution` with the mask, the "auto"
temperature and the softmax over K x K pairs, then the draw of a period's pairs (class pair by the two-stage draw,
sample indices, coefficients and seeds). Beside them, in the same process and by turns, what neither can do without:
one exp over K x K float64 values and one sum of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gain import hardware
from selmix_hf.data.pairs import PairSampler
from selmix_hf.method.draws import ClassIndex
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.reports.tables import markdown_table


def by_turns(repeats: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function, in each of the repeats."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return seconds


def ratio(taken: Sequence[float], beside: Sequence[float]) -> str:
    """Of the best times, and in brackets the smallest and the largest ratio within a turn."""
    turns = [a / b for a, b in zip(taken, beside, strict=True)]
    return f"{min(taken) / min(beside):.2f} ({min(turns):.2f} to {max(turns):.2f})"


def measure(num_classes: int, num_pairs: int, repeats: int) -> dict[str, Any]:
    """One size."""
    generator = torch.Generator().manual_seed(0)
    gain_KK = torch.randn(num_classes, num_classes, generator=generator)
    values_KK = gain_KK.double()
    index = ClassIndex(np.arange(20 * num_classes) % num_classes, num_classes)
    probability_KK = pair_distribution(gain_KK).probability
    sampler = PairSampler(index, index, lambda: probability_KK, num_pairs)
    distribution, draw, bare = by_turns(
        repeats, lambda: pair_distribution(gain_KK), sampler.draw, lambda: values_KK.exp().sum()
    )
    return {
        "classes": num_classes,
        "pairs": num_pairs,
        "distribution": distribution,
        "draw": draw,
        "bare": bare,
    }


def table(rows: Sequence[dict]) -> str:
    """Markdown: the best of the repeats, with the slowest in brackets, and ratios within a turn."""
    cells = [
        [
            f"{row['classes']:,}",
            f"{min(row['distribution']):.3g} ({max(row['distribution']):.3g})",
            ratio(row["distribution"], row["bare"]),
            f"{min(row['draw']):.3g} ({max(row['draw']):.3g})",
            f"{row['pairs'] / min(row['draw']) / 1e6:.1f}",
        ]
        for row in rows
    ]
    return markdown_table(
        ["K", "P, s", "of one bare exp and sum", f"draw of {rows[0]['pairs']:,} pairs, s", "million pairs a second"],
        cells,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 4000, 8142], help="numbers of classes")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="drawn in one period")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    rows = [measure(size, options.pairs, options.repeats) for size in options.sizes]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"hardware": hardware(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

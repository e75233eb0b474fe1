"""Seconds and memory of `gain_matrix`, beside the matrix products that it cannot do without.

    python benchmarks/gain.py
    python benchmarks/gain.py --sizes 1000 --features 768 --repeats 50 --json gain.json

For each number of classes K, `gain_matrix` (float32, one beta) and its bare products (three of K x K x K, three of
K x K x features) run by turns in one process with the same threads; the ratio is of the best times. Extra memory is
what one call adds to the process's peak resident memory (ru_maxrss) beyond the inputs, G included, in a fresh process
for each K, after a small call has loaded the libraries.

Measured: docs/method.md. At K = 10 the ratio is that of starting many small operations: a tenth of a millisecond.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from selmix_hf.method.gain import gain_matrix
from selmix_hf.reports.machine import processor
from selmix_hf.reports.tables import markdown_table

SECONDS_A_SIZE = 10


def make_inputs(num_classes: int, num_features: int) -> tuple[torch.Tensor, ...]:
    """Centroids, a head whose logits favour the right class by about ten, its bias, and a D whose rows sum to 0."""
    generator = torch.Generator().manual_seed(0)
    centroids = torch.randn(num_classes, num_features, generator=generator).div_(num_features**0.5)
    weight = torch.randn(num_classes, num_features, generator=generator).add_(centroids, alpha=10)
    bias = torch.randn(num_classes, generator=generator)
    gradient = torch.randn(num_classes, num_classes, generator=generator).div_(num_classes**2)
    return centroids, weight, bias, gradient.sub_(gradient.mean(1, keepdim=True))


def bare_products(centroids: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> None:
    logits = centroids @ weight.T
    align = centroids @ (centroids.T @ gradient)
    for left in (logits, align, gradient):
        left @ logits.T


def measure(num_classes: int, num_features: int, repeats: int | None) -> dict[str, float]:
    """One size, in this process."""
    gain_matrix(*make_inputs(8, 8))
    inputs = make_inputs(num_classes, num_features)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    gain_matrix(*inputs)
    elapsed = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    repeats = repeats or max(5, min(200, int(SECONDS_A_SIZE / elapsed)))
    seconds: dict = {gain_matrix: [], bare_products: []}
    for _ in range(repeats):
        for function, taken in seconds.items():
            start = time.perf_counter()
            function(*inputs)
            taken.append(time.perf_counter() - start)
    best, bare = min(seconds[gain_matrix]), min(seconds[bare_products])
    return {
        "classes": num_classes,
        "features": num_features,
        "repeats": repeats,
        "gain_best": best,
        "gain_median": statistics.median(seconds[gain_matrix]),
        "products_best": bare,
        "products_median": statistics.median(seconds[bare_products]),
        "ratio": best / bare,
        "extra_megabytes": grown * (1 if sys.platform == "darwin" else 1024) / 1e6,
        "gain_megabytes": num_classes**2 * 4 / 1e6,
    }


def hardware() -> dict[str, str | int]:
    return {
        "cpu": processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(rows: Sequence[dict]) -> str:
    """Markdown: best of the repeats."""
    cells = [
        [
            str(row["classes"]),
            f"{row['gain_best']:.3g}",
            f"{row['products_best']:.3g}",
            f"{row['ratio']:.2f}",
            f"{row['extra_megabytes']:.0f}",
        ]
        for row in rows
    ]
    return markdown_table(["K", "gain, s", "its bare products, s", "ratio", "extra memory, MB"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 4000], help="numbers of classes")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--repeats", type=int, help=f"default: as many as take {SECONDS_A_SIZE} s, at least five")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a single size, its figures as JSON
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.sizes[0], options.features, options.repeats)))
        return

    machine = hardware()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}")
    print(f"{options.features} features, float32\n")
    print(f"{'':>6} {'gain_matrix, s':>22} {'bare products, s':>22} {'':>6} {'memory, MB':>16}")
    print(f"{'K':>6} {'best':>11}{'median':>11} {'best':>11}{'median':>11} {'ratio':>6} {'extra':>8}{'of it G':>8}")
    rows = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(size), "--features", str(options.features)]
        if options.repeats:
            command += ["--repeats", str(options.repeats)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append(row)
        print(
            f"{size:>6} {row['gain_best']:>11.5f}{row['gain_median']:>11.5f} {row['products_best']:>11.5f}"
            f"{row['products_median']:>11.5f} {row['ratio']:>6.2f} {row['extra_megabytes']:>8.1f}"
            f"{row['gain_megabytes']:>8.1f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"hardware": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

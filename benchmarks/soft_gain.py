"""Seconds and memory from a gain set to G: the soft confusion matrix beside the counts, in the same way.

    OMP_NUM_THREADS=1 python -m benchmarks.soft_gain --json RECORD.json

For each number of classes K, in a process of its own for each matrix: random features of a gain set with
`--per_class` samples a class, their counts or soft counts, the derivative for mean recall, G; float32. Best of the
repeats; extra memory is what this adds to the process's peak (ru_maxrss) beyond features and head.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gain import hardware
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.gain import gain_along, gain_matrix, metric_gradient
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.soft_gain import HeadSamples, soft_confusion_counts, soft_direction
from selmix_hf.reports.tables import markdown_table

MATRICES = ("hard", "soft")
_AT_ONCE = 4096


def gain_of(matrix: str, samples: HeadSamples, centroids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """From the gain set to G."""
    objective, bias = get_objective("mean_recall"), torch.zeros(len(weight))
    if matrix == "soft":
        counts = soft_confusion_counts(samples, weight, bias, 0.3)
        direction = soft_direction(objective, counts, samples, weight, bias, 0.3)
        del counts
        return gain_along(centroids, weight, bias, *direction)
    predicted = torch.cat([(rows @ weight.T).argmax(1) for rows in samples.features.split(_AT_ONCE)])
    counts = confusion_counts(samples.labels, predicted, len(weight))
    gradient = metric_gradient(objective, counts).float()
    del counts
    return gain_matrix(centroids, weight, bias, gradient)


def measure(matrix: str, num_classes: int, num_features: int, per_class: int, repeats: int) -> dict[str, Any]:
    """One matrix and size, in this process."""
    generator = torch.Generator().manual_seed(0)
    centroids = torch.randn(num_classes, num_features, generator=generator) / num_features**0.5
    labels = torch.arange(num_classes).repeat(per_class)
    features = centroids[labels] + torch.randn(len(labels), num_features, generator=generator) / num_features**0.5
    gain_of(matrix, HeadSamples(features[:8, :8], torch.arange(8)), centroids[:8, :8], centroids[:8, :8])  # libraries
    inputs = matrix, HeadSamples(features, labels), centroids, 10 * centroids
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(repeats):
        began = time.perf_counter()
        gain_of(*inputs)
        seconds.append(time.perf_counter() - began)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": min(seconds), "extra_megabytes": grown * (1 if sys.platform == "darwin" else 1024) / 1e6}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    cells = []
    for row in rows:
        hard, soft = row["hard"], row["soft"]
        numbers = [f"{part['seconds']:.3g}" for part in (hard, soft)] + [f"{soft['seconds'] / hard['seconds']:.2f}"]
        cells.append([str(row["classes"]), *numbers, *[f"{part['extra_megabytes']:.0f}" for part in (hard, soft)]])
    header = ["K", "counts, s", "soft matrix, s", "ratio", "extra memory, counts, MB", "extra memory, soft matrix, MB"]
    return markdown_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 8142], help="numbers of classes")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--per_class", type=int, default=3, help="gain samples")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--one", choices=MATRICES, help=argparse.SUPPRESS)  # a single one, its figures as JSON
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.sizes[0], given.features, given.per_class, given.repeats)))
        return
    shared = ["--features", str(given.features), "--per_class", str(given.per_class), "--repeats", str(given.repeats)]
    rows = []
    for size in given.sizes:
        row: dict[str, Any] = {"classes": size}
        for matrix in MATRICES:
            command = [sys.executable, "-m", "benchmarks.soft_gain", "--one", matrix, "--sizes", str(size), *shared]
            row[matrix] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append(row)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    if given.json:
        given.json.write_text(json.dumps({"hardware": hardware(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What so many samples a class allow one to claim: the tables of docs/validation_size.md.

    python -m benchmarks.validation_size

The first three are exact calculations; the last compares validation and test in the runs recorded in model_cards/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from selmix_hf.method.intervals import binomial_lower_bound
from selmix_hf.reports.tables import markdown_table, mean_and_sd

CARDS = Path(__file__).parents[1] / "model_cards"
SAMPLES = (20, 50, 100, 200, 500, 1000)
CLASSES = (1, 10, 100, 1000)
CANDIDATES = (1, 20, 200, 2000)
GAINS = (0.02, 0.05, 0.1)
ERROR, FROM, POWER = 0.05, 0.65, 0.8


def below(observed: float, samples: int, error: float) -> float:
    """How far below an observed recall its one-sided bound lies."""
    hits = np.array(round(observed * samples))
    return observed - float(binomial_lower_bound(hits, np.array(samples), error))


def width_table() -> str:
    """Markdown: the ends of intervals around an observed recall of .5, where they are widest."""
    rows = []
    for samples in SAMPLES:
        of_classes = [below(0.5, samples, (1 - (1 - ERROR) ** (1 / number)) / 2) for number in CLASSES]
        rows.append([f"{samples:,}", *[f"± {width:.3f}" for width in of_classes]])  # at .5 both ends are as far
    return markdown_table(["samples a class", *[f"K = {number:,}" for number in CLASSES]], rows)


def samples_needed(gain: float, num_worst: int) -> int:
    """From so many samples a class on, a worst class that has gained is known to be above `FROM` with probability
    `POWER`: the one-sided bounds of `num_worst` classes, which all have gained, lie above."""
    samples_N = np.arange(1, 40_000)
    needed_N = binom.ppf(1 - ERROR, samples_N, FROM) + 1  # so many hits have probability below ERROR at FROM
    fails_N = binom.sf(needed_N - 1, samples_N, FROM + gain) ** num_worst < POWER
    return int(samples_N[fails_N].max()) + 1


def gain_table() -> str:
    """Markdown: samples a class that tell a gain in worst-class recall."""
    rows = [[f"{gain:.2f}", *[f"{samples_needed(gain, number):,}" for number in CLASSES]] for gain in GAINS]
    header = [f"gain over {FROM:.2f}", "one class so low", *[f"{number:,} so low" for number in CLASSES[1:]]]
    return markdown_table(header, rows)


def selection_table() -> str:
    """Markdown: the bound for the chosen model, below an observed worst-class recall of .7."""
    rows = []
    for samples in SAMPLES:
        hoeffding = np.sqrt(np.log(CANDIDATES[-1] / ERROR) / (2 * samples))
        bounds = [f"− {below(0.7, samples, ERROR / number):.3f}" for number in CANDIDATES]
        rows.append([f"{samples:,}", *bounds, f"− {hoeffding:.3f}"])
    header = ["samples a class", *[f"M = {number:,}" for number in CANDIDATES]]
    return markdown_table([*header, f"Hoeffding, M = {CANDIDATES[-1]:,}"], rows)


def optimism_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: worst-class recall of recorded runs on the validation set, which steered and selected, and on test."""
    rows = []
    for record in records:
        row = [record["name"]]
        for moment in ("before", "after"):
            pairs = [
                (run[f"validation_{moment}"]["eval_min_recall"], run[f"test_{moment}"]["min_recall"])
                for run in record["runs"]
            ]
            if moment == "after":
                row += [mean_and_sd(side) for side in zip(*pairs, strict=True)]
            row.append(mean_and_sd([validation - test for validation, test in pairs]).replace("-", "−"))
        rows.append(row)
    header = ["run", "difference at the start", "validation, end", "test, end", "difference"]
    return markdown_table(header, rows)


def recorded_runs() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CARDS.glob("*/results.json"))]


def main() -> None:
    for table in (width_table(), gain_table(), selection_table(), optimism_table(recorded_runs())):
        print(table, end="\n\n")


if __name__ == "__main__":
    main()

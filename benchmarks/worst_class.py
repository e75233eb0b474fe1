"""Does anything lift the worst class above plain SelMix? Heads on stored features, the backbone frozen.

    SELMIX_REFERENCE_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.worst_class STARTS --json RECORD.json

STARTS: the folder of `benchmarks.starts`. From three starts on CIFAR-10-LT, with the defaults and one thing changed:
memory of the multipliers, the average of the head over the last part of the steps, the gain's exact expectation over
the mixing coefficient, and a bias a class chosen at the end on the samples that steer. One half of the validation set
steers and the other is measured, then the halves change places, four times; differences are to the defaults on the
same halves with the same seed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defaults import Options, cifar10_sets, report, selmix_on_features
from selmix_hf.reports.tables import markdown_table, mean_and_sd

STARTS = {
    "lite0, logit-adjusted": None,  # the reference checkpoint
    "scratch, logit-adjusted": "CIFAR-10-LT-scratch-logit-adjusted",
    "lite0, plain": "CIFAR-10-LT-lite0-plain",
}
TRIALS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "multipliers without memory": {"min_memory": 0.0},
    "memory .9": {"min_memory": 0.9},
    "memory .95": {"min_memory": 0.95},
    "head averaged over the last quarter": {"average": 0.25},
    "head averaged over the last half": {"average": 0.5},
    "head averaged over the last three quarters": {"average": 0.75},
    "exact expectation over beta": {"gain_quadrature": True},
    "bias a class at the end": {"class_bias": True},
    "average over the last half, and bias": {"average": 0.5, "class_bias": True},
}


def measure(root: Path, starts: Path) -> dict[str, dict[str, list[dict[str, float]]]]:
    """For each start and trial one report a draw."""
    record: dict[str, dict[str, list[dict[str, float]]]] = {}
    for title, name in STARTS.items():
        train, sets, head = cifar10_sets(root, None if name is None else starts / name, halvings=4)
        record[title] = {"the start": [report(head, measured) for _, measured in sets]}
        for trial, changes in TRIALS.items():
            options = replace(Options(), **changes)
            heads = [
                selmix_on_features(train, steers, head, "min_recall", None, options, seed)
                for seed, (steers, _) in enumerate(sets)
            ]
            record[title][trial] = [report(own, of[1]) for own, of in zip(heads, sets, strict=True)]
            print(title, trial, mean_and_sd([one["min_recall"] for one in record[title][trial]]), flush=True)
    return record


def table(record: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> str:
    """Markdown: the defaults as they are, everything else by its difference to them, ± standard error."""
    header, rows = [""], [[trial] for trial in ("the start", *TRIALS)]
    for title, trials in record.items():
        header += [f"{title}: worst class", "mean"]
        for cells in rows:
            trial = cells[0]
            for metric in ("min_recall", "mean_recall"):
                values, plain = ([one[metric] for one in trials[name]] for name in (trial, "the defaults"))
                if trial in ("the start", "the defaults"):
                    cells.append(f"{np.mean(values):.3f}")
                    continue
                differences = np.subtract(values, plain)
                error = differences.std(ddof=1) / len(differences) ** 0.5
                cells.append(f"{differences.mean():+.3f} ± {error:.3f}")
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("starts", type=Path, help="folder of benchmarks.starts")
    parser.add_argument("--json", type=Path, help="also write the record here")
    options = parser.parse_args()
    record = measure(Path(os.environ["SELMIX_REFERENCE_DATA"]), options.starts)
    print(f"\n{table(record)}")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

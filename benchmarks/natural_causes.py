"""What each of the defaults for many classes does, alone and missing, on samples that neither train nor steer.

    SELMIX_REFERENCE_DATA=... python -m benchmarks.natural_causes --output_dir natural --json RECORD.json

From the texts of `benchmarks.natural_starts`: one half of each class's gain samples steers and chooses, the other is
measured, then the halves change places; the test set takes no part. The first row are the settings that were tuned on
ten classes, then each default is added alone, then all of them, then all but each.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.natural import by_trainer
from benchmarks.natural_report import TITLES, short
from benchmarks.natural_starts import Start, made
from benchmarks.on_features import TEN_CLASSES
from selmix_hf.reports.tables import markdown_table, mean_and_sd
from selmix_hf.training.cross_fit import halves_of

ALL = ("ties of the objective are broken", "rate and length", "soft confusion matrix", "head of the start")
_OPTIONS: dict[str, dict[str, Any]] = {
    ALL[0]: {"metric_for_best_model": "selection_score"},
    ALL[1]: {"learning_rate": None, "max_steps": None, "refresh_steps": None},
    ALL[2]: {"confusion": "soft"},
    ALL[3]: {"head_start": "best"},
}
COLUMNS = ("mean_recall", "worst_share_recall", "h_mean", "zero_recall_classes")


def variants() -> dict[str, dict[str, Any]]:
    """Options by the name of a row."""
    none = {**TEN_CLASSES, "max_steps": 2000, "metric_for_best_model": "psi"}
    every = {name: value for options in _OPTIONS.values() for name, value in options.items()}
    rows = {"none of them": none} | {f"{name} alone": {**none, **options} for name, options in _OPTIONS.items()}
    rows["all"] = every
    for name, options in _OPTIONS.items():
        rows[f"all but: {name}"] = {**every, **{option: none[option] for option in options}}
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean ± standard deviation over the halves."""
    cells = []
    for row in rows:
        numbers = [mean_and_sd([run[name] for run in row["runs"]]) for name in COLUMNS[:-1]]
        zeros = "–".join(dict.fromkeys(str(run["zero_recall_classes"]) for run in row["runs"]))
        cells.append([TITLES[row["objective"]], row["variant"], *map(short, numbers), zeros])
    return markdown_table(["for", "defaults", *[TITLES[name] for name in COLUMNS]], cells)


def main(argv: Sequence[str] | None = None) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=["mean_recall", "h_mean"])
    parser.add_argument("--start", default="texts, plain")
    parser.add_argument("--output_dir", type=Path, default=Path("natural"), help="of benchmarks.natural")
    parser.add_argument("--json", type=Path, help="write the rows here")
    given = parser.parse_args(argv)
    start = made(given.start, given.output_dir / "starts")
    halves = [tuple(part[torch.from_numpy(rows)] for part in start.gain) for rows in halves_of(start.gain[1].numpy())]
    ways = [Start(start.train, *pair, start.head) for pair in (halves, halves[::-1])]
    rows: list[dict[str, Any]] = []
    for objective in given.objectives:
        for name, options in variants().items():
            runs = [by_trainer(way, objective, 0, options)[0] for way in ways]
            kept = [{column: run[column] for column in COLUMNS} for run in runs]
            rows.append({"objective": objective, "variant": name, "runs": kept})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    main()

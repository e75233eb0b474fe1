"""How well gains predict what a step of the head changes, over a run: the reference checkpoint, backbone frozen.

    SELMIX_REFERENCE_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.gain_fidelity --json RECORD.json

One run of 2,000 steps for each objective with the defaults, on stored features. Every 20 refreshes (200 steps), from
the same weights, all 100 pairs of classes take one step of each size: on the mix of centroids that the gain predicts,
and along the mean gradient of 64 mixes of training features. The learning rate of the run is 0.01.
The record is of `--target_share 0.5`. `--start` takes one of the starts of `benchmarks.natural` instead (57 classes:
100 of their pairs), and with `--confusion soft` the gains of the soft confusion matrix are held against what a step
changes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.defaults import cifar10_sets
from benchmarks.natural_starts import made
from benchmarks.on_features import TEN_CLASSES, trainer_on_features
from selmix_hf.method.gain_fidelity import GainFidelity
from selmix_hf.reports.plots import make_figure, plot_gain_fidelity
from selmix_hf.reports.tables import markdown_table
from selmix_hf.training.fidelity_callback import GainFidelityCallback

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZES = (0.001, 0.01, 0.1, 1.0)
MIXES = {"centroid": "of centroids", "drawn": "of training features"}
MATRICES = ("centroid", "soft", "hard")


class Looks(TrainerCallback):
    """Every step size and kind of mix, at the same refreshes."""

    def __init__(self, every: int) -> None:
        looks = [(mixes, size) for mixes in MIXES for size in SIZES]
        self.callbacks = [GainFidelityCallback(every, step_size=size, mixes=mixes) for mixes, size in looks]
        self.rows: list[dict[str, Any]] = []

    def on_refresh(self, trainer: Any) -> None:
        for callback in self.callbacks:
            callback.on_refresh(trainer)
            look = callback.latest
            if look is None or callback.step != trainer.state.global_step:
                continue
            numbers = {name.removeprefix("gain_fidelity_"): value for name, value in look.report().items()}
            self.rows.append({"at": callback.step, "mixes": callback.mixes, **shortened(numbers)})
            if (callback.mixes, callback.step, look.step_size) == ("centroid", 0, trainer.args.learning_rate):
                self.rows[-1]["points"] = {
                    name: list(shortened(dict(enumerate(getattr(look, name).tolist()))).values())
                    for name in ("predicted", "soft", "hard")
                }


def shortened(numbers: Mapping[Any, float]) -> dict[Any, float]:
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def measure(
    objectives: Sequence[str],
    max_steps: int,
    every: int,
    target_share: float | None,
    confusion: str = "hard",
    start: str | None = None,
    learning_rate: float = 0.01,
) -> dict[str, Any]:
    if start is None:
        train, halves, head = cifar10_sets(Path(os.environ["SELMIX_REFERENCE_DATA"]), None)
        gain = (torch.cat([part[0] for part in halves[0]]), torch.cat([part[1] for part in halves[0]]))
    else:
        found = made(start, Path("natural") / "starts")
        train, gain, head = found.train, found.gain, found.head
    record = {}
    for objective in objectives:
        looks = Looks(every)
        with tempfile.TemporaryDirectory() as folder:
            options = {"objective": objective, "max_steps": max_steps, "target_share": target_share}
            options |= {**TEN_CLASSES, "confusion": confusion, "learning_rate": learning_rate}
            trainer_on_features(train, gain, head, folder, [looks], **options).train()
        record[objective] = looks.rows
        print(table({objective: looks.rows}), flush=True)
    return record


def table(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: rank correlation and slope at the first look and the mean of those of the last half."""
    cells = []
    for objective, rows in record.items():
        for mixes, title in MIXES.items():
            for size in SIZES:
                looks = [row for row in rows if row["mixes"] == mixes and row["step"] == size]
                parts = [looks[:1], [row for row in looks if row["at"] >= rows[-1]["at"] / 2]]
                numbers = []
                for part in parts:
                    for matrix in MATRICES:
                        of_looks = [
                            [row.get(f"{matrix}_{what}", np.nan) for row in part] for what in ("rank", "slope")
                        ]
                        rank, slope = (np.nanmean(values) for values in of_looks)
                        numbers.append(f"{rank:.2f} ({slope:.2f})".replace("-", "−"))
                cells.append([objective, title, f"{size:g}", *numbers])
    columns = [f"{when}, {matrix}" for when in ("start", "later") for matrix in MATRICES]
    return markdown_table(["objective", "mix", "step", *columns], cells)


def confusion_table(records: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Markdown: rank correlation on the counts, at the first look and the mean of those of the last half.

    Args:
        records: by what their gains are of.
    """
    cells = []
    for objective, rows in next(iter(records.values())).items():
        for mixes, title in MIXES.items():
            for size in SIZES:
                cells.append([objective, title, f"{size:g}"])
                for first in (0, rows[-1]["at"] / 2):
                    for record in records.values():
                        looks = [row for row in record[objective] if (row["mixes"], row["step"]) == (mixes, size)]
                        part = looks[:1] if first == 0 else [row for row in looks if row["at"] >= first]
                        cells[-1].append(f"{np.nanmean([row['hard_rank'] for row in part]):.2f}".replace("-", "−"))
    columns = [f"{when}, gain of {of}" for when in ("start", "later") for of in records]
    return markdown_table(["objective", "mix", "step", *columns], cells)


def save_plots(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Every pair at the start, at the run's learning rate; and the rank correlations over the run, by step size."""
    IMAGES.mkdir(exist_ok=True)
    (row,) = [row for row in record["min_recall"] if "points" in row]
    predicted, soft, hard = (torch.tensor(row["points"][name]) for name in ("predicted", "soft", "hard"))
    fidelity = GainFidelity(torch.empty(0, 2), row["step"], predicted, soft, soft, hard, math.nan, math.nan)
    figure = plot_gain_fidelity(fidelity, "Gains of min_recall at the start")
    figure.savefig(IMAGES / "gain_fidelity.png", dpi=110)
    figure = make_figure(11, 5.6)
    grid = figure.subplots(2, len(record), sharex=True, sharey=True, squeeze=False)
    for column, (objective, rows) in zip(grid.T, record.items(), strict=True):
        for axes, matrix in zip(column, ("soft", "hard"), strict=True):
            for size, colour in zip(SIZES, ("#b7d3ea", "#5a9bd0", "#1f6fb2", "#c4572f"), strict=True):
                looks = [row for row in rows if row["mixes"] == "centroid" and row["step"] == size]
                values = [row.get(f"{matrix}_rank", math.nan) for row in looks]
                axes.plot([row["at"] for row in looks], values, "o-", ms=3, color=colour, label=f"{size:g}")
            axes.axhline(0, color="#cccccc", lw=0.8, zorder=0)
            axes.set_title(f"{objective}, {matrix} matrix", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
        column[-1].set_xlabel("optimizer step")
    for axes in grid[:, 0]:
        axes.set_ylabel("rank correlation")
    grid[0, -1].legend(title="step size", fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(IMAGES / "gain_fidelity_over_training.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=["min_recall", "mean_recall", "h_mean"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20, help="refreshes from one look to the next")
    parser.add_argument("--target_share", type=float, help="of SelMixConfig; default its own")
    parser.add_argument("--confusion", choices=("hard", "soft"), default="hard", help="what the gain is of")
    parser.add_argument("--start", help="one of benchmarks.natural_starts in the place of the reference")
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--json", type=Path, help="also write the record here")
    options = parser.parse_args()
    given = options.objectives, options.steps, options.every, options.target_share, options.confusion
    record = measure(*given, options.start, options.learning_rate)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The defaults where all weights train: from networks of `benchmarks.natural_starts` that are small enough for a CPU.

    SELMIX_REFERENCE_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.natural_whole --json RECORD.json

From each start, for each objective and seed: `SelMixTrainer` with nothing set but the objective, with a frozen
backbone and with all weights in training. The gain set steers and chooses; the test set is looked at once for each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import starts as images
from benchmarks.natural import DEFAULTS, OBJECTIVES
from benchmarks.natural_report import TITLES, short
from selmix_hf import SelMixConfig, SelMixTrainer
from selmix_hf.comparison import markdown_table, mean_and_sd
from selmix_hf.hardware import hardware

STARTS = ("digits, scratch, logit-adjusted", "digits, scratch, plain", "CIFAR-10-LT, scratch, plain")
COLUMNS = ("mean_recall", "worst_share_recall")


def run(name: str, objective: str, freeze: bool, seed: int, folder: Path, root: Path) -> dict[str, Any]:
    """Before, after, and what the run made of its settings."""
    data, network, loss = name.split(", ")
    start = next(s for s in images.STARTS if (s.data, s.network, s.loss) == (data, network, loss))
    splits = images.digits(root) if data == "digits" else images.cifar10_lt(root)
    if not (folder / start.folder / "config.json").is_file():
        names = splits["test"].features["label"].names
        images.train_start(start, root, folder / start.folder, splits, names)
    model, processor = images.load(folder / start.folder)
    with tempfile.TemporaryDirectory() as out:
        args = SelMixConfig(
            out,
            **DEFAULTS,
            objective=objective,
            freeze_backbone=freeze,
            seed=seed,
            report_to="none",
            disable_tqdm=True,
        )
        sets = {"train_dataset": splits["train"], "gain_dataset": splits["validation"]}
        trainer = SelMixTrainer(model=model, args=args, processing_class=processor, **sets)
        before = trainer.evaluate(splits["test"], metric_key_prefix="test")
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        after = trainer.evaluate(splits["test"], metric_key_prefix="test")
    found = {"start": name, "objective": objective, "frozen": freeze, "seed": seed, "seconds": seconds}
    found |= {"rate": trainer.args.learning_rate, "best_step": trainer.state.best_global_step}
    kept = {part: {c: report[f"test_{c}"] for c in COLUMNS} for part, report in (("before", before), ("after", after))}
    return found | kept


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean ± standard deviation over seeds."""
    cells = []
    for name, objective in dict.fromkeys((one["start"], one["objective"]) for one in runs):
        of_start = [one for one in runs if (one["start"], one["objective"]) == (name, objective)]
        row = [name, TITLES[objective], short(f"{of_start[0]['before'][objective]:.3f}")]
        for frozen in (True, False):
            values = [one["after"][objective] for one in of_start if one["frozen"] == frozen]
            row.append(short(mean_and_sd(values)) if values else "")
        cells.append(row)
    return markdown_table(["start", "for", "the start", "frozen", "all weights"], cells)


def main(argv: Sequence[str] | None = None) -> None:
    transformers.utils.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("natural"), help="of benchmarks.natural")
    parser.add_argument("--json", type=Path, help="write the runs here")
    given = parser.parse_args(argv)
    root, runs = Path(os.environ["SELMIX_REFERENCE_DATA"]), []
    for name in given.starts:
        for objective in OBJECTIVES:
            for seed in given.seeds:
                for freeze in (True, False):
                    runs.append(run(name, objective, freeze, seed, given.output_dir / "starts", root))
                    print(json.dumps(runs[-1]), flush=True)
                    if given.json:
                        record = {"hardware": hardware(1, True), "runs": runs}
                        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    main()

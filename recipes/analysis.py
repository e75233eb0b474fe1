"""What each choice in SelMix does from your checkpoint on your data: the whole report in one command.

    accelerate launch recipes/analysis.py --model_name_or_path <checkpoint> --dataset <Hub id or folder> \\
        --split <split.json that it was trained on> --freeze_backbone true --seeds 0 1 2 --output_dir analysis

Studies (`--studies`, default all): pair_sampling (selmix, uniform, greedy), inverse_temperature (five orders of
magnitude around the one that "auto" begins with), beta_min, refresh_steps, validation_size, imbalance (10 to 500, and
down to two images in the rarest class; the head is fitted anew to each), backbone (the head alone, or all weights) and
mixing (feature, input, cutmix, puzzlemix; all weights). Everything else is as SelMixConfig's options say.

One half of the validation images steers, the other is measured, and every seed halves them anew: the test images are
not looked at. Weights at the end of a run are measured, none are selected. Into output_dir go report.md, a picture a
study and analysis.json.

Measured: docs/analysis.md, with the commands and how long they took.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from selmix_hf.analysis import MILDEST, Laboratory, long_tailed_profile, run_study, studies
from selmix_hf.analysis_report import TITLES, write_report
from selmix_hf.arguments import parse_arguments
from selmix_hf.benchmark import leaving_with_a_sentence, naming_a_broken_image, run_stage1
from selmix_hf.benchmark_data import BenchmarkData, LongTailedArguments, drawn_data
from selmix_hf.benchmark_results import provenance
from selmix_hf.benchmark_start import BenchmarkArguments
from selmix_hf.config import SelMixConfig
from selmix_hf.labels import class_labels, first_of_each
from selmix_hf.loading import load_images
from selmix_hf.long_tail import LongTailedSplit

SCRIPT = "analysis.py"
WHOLE_NETWORK = {"learning_rate": 0.003, "backbone_learning_rate": 0.0003, "max_steps": 300, "refresh_steps": 20}


@dataclass(kw_only=True)
class Arguments(LongTailedArguments, BenchmarkArguments):
    dataset: str = field(metadata={"help": "A Hub id, or a folder with train.parquet."})
    studies: list[str] = field(default_factory=list, metadata={"help": f"Of {', '.join(studies({}))}; default: all."})
    objectives: list[str] = field(
        default_factory=lambda: ["min_recall", "mean_recall", "h_mean"], metadata={"help": "Each study for each."}
    )
    whole_network: dict | str | None = field(
        default=None, metadata={"help": f"JSON: options of the runs that train all weights; default {WHOLE_NETWORK}."}
    )

    def _check(self) -> None:
        super()._check()
        if isinstance(self.whole_network, str):
            try:
                self.whole_network = json.loads(self.whole_network)
            except json.JSONDecodeError as error:
                raise ValueError(f"--whole_network must be JSON, found {self.whole_network!r} ({error}).") from error
        self.whole_network = WHOLE_NETWORK | (self.whole_network or {})
        unknown = sorted(set(self.studies) - set(studies({})))
        if unknown:
            raise ValueError(f"--studies: unknown {', '.join(unknown)}; expected some of {', '.join(studies({}))}.")


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    dataset = load_images(arguments.dataset, test="train")  # no test set is needed
    data = drawn_data(arguments, dataset, folder, Path(arguments.dataset).name)
    if not arguments.studies or "imbalance" in arguments.studies:
        data.splits["pool"] = dataset["train"].select(_unused(dataset["train"], data, folder))
    return data


def _unused(images: Any, data: BenchmarkData, folder: Path) -> np.ndarray:
    """Rows of images in no split: as many of each class as the study of imbalance can draw."""
    split = LongTailedSplit.load(folder / "split.json")
    keys = range(len(images)) if split.key_column is None else images[split.key_column]
    used = {*split.train, *split.validation}
    rows_N = np.array([row for row, key in enumerate(keys) if key not in used], np.int64)
    wanted_K = long_tailed_profile(data.train_counts, round(data.train_counts.max() / MILDEST)) - data.train_counts
    return first_of_each(rows_N, class_labels(images, data.label_column), np.maximum(wanted_K, 0))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    began = time.perf_counter()
    with leaving_with_a_sentence(SCRIPT):
        arguments, config = parse_arguments((Arguments, SelMixConfig), argv)
        for objective in arguments.objectives:
            config.make_objective(objective, class_counts=[1, 1])  # before anything else: is it known?
        if config.sampling is not None:
            raise ValueError("the studies are of pairs, and --sampling draws single samples: leave it out.")
        folder = Path(str(config.output_dir))
        config.feature_cache_dir = config.feature_cache_dir or str(folder / "features")
        data = load(arguments, folder)
    checkpoint = run_stage1(SCRIPT, arguments, config, data)
    with leaving_with_a_sentence(SCRIPT):
        laboratory = Laboratory(arguments, config, data, checkpoint)
    is_main = config.process_index == 0
    say = partial(print, flush=True) if is_main else lambda *_: None
    asked = studies(arguments.whole_network)
    options = sys.argv[1:] if argv is None else argv
    record: dict[str, Any] = {**provenance(SCRIPT, options, arguments, config, data.name), "studies": {}}
    for name in arguments.studies or asked:
        say(f"{TITLES[name]}:")
        with naming_a_broken_image(SCRIPT, data):
            record["studies"][name] = run_study(
                laboratory,
                asked[name],
                arguments.objectives,
                record["seeds"],
                say,
                with_history=name == "inverse_temperature",
            )
        record["seconds"] = round(time.perf_counter() - began, 1)
        if is_main:  # after every study: none is lost
            (folder / "analysis.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
            (folder / "report.md").write_text(write_report(record, folder), encoding="utf-8")
    say(f"The report is {folder / 'report.md'}.")
    return record


if __name__ == "__main__":
    main()

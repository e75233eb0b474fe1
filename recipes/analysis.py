"""What each choice in SelMix does from your checkpoint on your data: the whole report in one command.

    accelerate launch recipes/analysis.py --model_name_or_path <checkpoint> --dataset <Hub id or folder> \\
        --split <split.json that it was trained on> --freeze_backbone true --seeds 0 1 2 --output_dir analysis

Studies (`--studies`, default all): pair_sampling (selmix, uniform, greedy), inverse_temperature (five orders of
magnitude around the one that "auto" begins with), beta_min, refresh_steps, validation_size, imbalance (10 to 500, and
down to two samples in the rarest class; the head is fitted anew to each), backbone (the head alone, or all weights),
mixing (every one that has a name; all weights; of images alone). Everything else is as SelMixConfig's options say.

Data: images or texts, taken as they are or made long-tailed, as in compare.py; no test split is needed. Of validation
samples that are unequally many a class, validation_size takes as many as it says, or all there are; imbalance draws
from the training split what that allows.

One half of the validation samples steers, the other is measured, and every seed halves them anew: the test samples are
not looked at. Weights at the end of a run are measured, none are selected. Into output_dir go report.md, a picture a
study and analysis.json.

Measured: docs/analysis.md, with the commands and how long they took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers

from selmix_hf.config import SelMixConfig
from selmix_hf.data.labels import class_labels, first_of_each
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.studies.analysis.measured_runs import MeasuredRuns, long_tailed_profile
from selmix_hf.studies.analysis.report import title_of, write_report
from selmix_hf.studies.analysis.settings import MILDEST, OF_PIXELS, run_study, studies
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.data import BenchmarkData, without_bad_images
from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image
from selmix_hf.studies.own_data import OwnDataArguments, load_own, own_data
from selmix_hf.studies.record import provenance
from selmix_hf.studies.stage1 import run_stage1
from selmix_hf.studies.start import BenchmarkArguments

SCRIPT = "analysis.py"
WHOLE_NETWORK = {"learning_rate": 0.003, "backbone_learning_rate": 0.0003, "max_steps": 300, "refresh_steps": 20}


@dataclass(kw_only=True)
class Arguments(OwnDataArguments, BenchmarkArguments):
    studies: list[str] = field(
        default_factory=list, metadata={"help": f"Studies to make; default: all, which are {', '.join(studies({}))}."}
    )
    objectives: list[str] = field(
        default_factory=lambda: ["min_recall", "mean_recall", "h_mean"],
        metadata={"help": "Objectives to make each study for, one after the other."},
    )
    whole_network: dict | str | None = field(
        default=None,
        metadata={"help": f"Options, as JSON, of the runs that train all weights; default: {WHOLE_NETWORK}."},
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
    dataset, modality = load_own(arguments, ["train"])
    data = own_data(arguments, dataset, modality, folder, Path(arguments.dataset).name)
    if "validation" not in dataset and (not arguments.studies or "imbalance" in arguments.studies):
        data.splits["pool"] = dataset["train"].select(_unused(dataset["train"], data, folder))
    return data


def _unused(samples: Any, data: BenchmarkData, folder: Path) -> np.ndarray:
    """Rows of samples in no split: as many of each class as the study of imbalance can draw."""
    split = LongTailedSplit.load(folder / "split.json")
    keys = range(len(samples)) if split.key_column is None else samples[split.key_column]
    used = {*split.train, *split.validation}
    rows_N = np.array([row for row, key in enumerate(keys) if key not in used], np.int64)
    wanted_K = long_tailed_profile(data.train_counts, round(data.train_counts.max() / MILDEST)) - data.train_counts
    return first_of_each(rows_N, class_labels(samples, data.label_column), np.maximum(wanted_K, 0))


def _without_those_of_images(names: list[str], asked: list[str], data: BenchmarkData) -> list[str]:
    """The studies to be made: all that suit the samples, or those asked for."""
    if data.modality.of_pixels:
        return asked or names
    if wrong := [name for name in asked if name in OF_PIXELS]:
        raise ValueError(
            f"--studies: {wrong[0]} is of images, and these data are for {data.modality.task}: leave it out."
        )
    return asked or [name for name in names if name not in OF_PIXELS]


def main(argv: list[str] | None = None, load: Callable[[Arguments, Path], BenchmarkData] = load) -> dict[str, Any]:
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
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
        data = without_bad_images(config, load(arguments, folder))
        known = studies(arguments.whole_network)
        chosen = _without_those_of_images([*known], arguments.studies, data)
    checkpoint = run_stage1(SCRIPT, arguments, config, data)
    with leaving_with_a_sentence(SCRIPT):
        start = MeasuredRuns(arguments, config, data, checkpoint)
    is_main = config.process_index == 0
    say = partial(print, flush=True) if is_main else lambda *_: None
    say(data.summary)
    if left_out := [name for name in known if not arguments.studies and name not in chosen]:
        say(f"Left out, being of images: {', '.join(left_out)}.")
    options = sys.argv[1:] if argv is None else argv
    record: dict[str, Any] = {
        **provenance(SCRIPT, options, arguments, config, data.name),
        "task": data.modality.task,
        "remark": data.remark,
        "split_digest": data.digest,
        "studies": {},
    }
    for name in chosen:
        say(f"{title_of(name, data.samples)}:")
        with naming_a_broken_image(SCRIPT, data):
            record["studies"][name] = run_study(
                start,
                known[name],
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

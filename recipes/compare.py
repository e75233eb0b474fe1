"""SelMix beside what else you could do with the same checkpoint: one command, one table.

    accelerate launch recipes/compare.py --model_name_or_path <checkpoint> --dataset <Hub id or folder> \\
        --split <split.json that it was trained on> --objectives min_recall mean_recall h_mean \\
        --freeze_backbone true --seeds 0 1 2 --output_dir compare

For each objective all methods of `selmix_hf.studies.compare.methods`, or those that `--methods` names: nothing, logit
adjustment, a bias a class, retrained and rescaled heads, a cost-sensitive reduction, uniform mixup, SelMix and others
(docs/results.md says what each is). All see the same samples, as many of them a step as SelMix does (two a pair), for
as many steps; where SelMix first refits the head, the 2,000 steps of that come on top. Each is tried with
`--num_settings` settings (default five) on validation samples that it was not fitted on: what is fitted on validation
samples is fitted on either half and measured on the other. The best by the objective is fitted once more, with all
validation samples, for every seed, and looked at on the test samples. Learning rates of retrained heads suit features
whose mean squared norm is in the hundreds, as behind most pretrained networks. With `--freeze_backbone false` SelMix,
uniform mixup and the cost-sensitive reduction train all weights, and give those that scored best on the validation
samples at one of the looks. With `--gain_set_use refit` (or train) these three, and of a frozen backbone SelMix and
uniform mixup, train on validation samples too in settings that do not say otherwise.

Data: images, or texts and a checkpoint with its tokenizer; `--text_column`, `--image_column` where there are several
columns that could be meant. With train, validation and test splits they are taken as they are, also where they are
long-tailed by nature; without a validation split, or with `--imbalance_factor` or another option of a drawn split, the
training split is made long-tailed here. Other samples: `main(load=...)`, a function that gives a `BenchmarkData` with
its `Modality`.

Into output_dir go compare.md (the table), compare.json, front.png (mean against worst-class recall), split.json where
something was drawn, and what was fitted (fits): the same command goes on where it was interrupted, also with more
objectives or settings.

Measured: docs/results.md, with the commands and how long they took.
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
from selmix_hf.data.labels import class_labels
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.compare.base import Method
from selmix_hf.studies.compare.comparison import NUM_SETTINGS, Comparison
from selmix_hf.studies.compare.methods import METHODS, SELMIX, methods_of
from selmix_hf.studies.compare.report import write_report
from selmix_hf.studies.data import BenchmarkData, without_bad_images
from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image
from selmix_hf.studies.one_start import OneStart
from selmix_hf.studies.own_data import OwnDataArguments, load_own, own_data
from selmix_hf.studies.record import provenance, rounded
from selmix_hf.studies.stage1 import run_stage1
from selmix_hf.studies.start import BenchmarkArguments

SCRIPT = "compare.py"
_ONLY = {(True, False): " (frozen backbone)", (False, True): " (all weights)"}
_NAMES = "; ".join(
    name + _ONLY.get((method.frozen_backbone, method.whole_network), "")
    for name, method in METHODS.items()
    if name != SELMIX
)


@dataclass(kw_only=True)
class Arguments(OwnDataArguments, BenchmarkArguments):
    objectives: list[str] = field(
        default_factory=lambda: ["min_recall", "mean_recall", "h_mean"],
        metadata={"help": "Objectives to compare the methods for, one after the other."},
    )
    methods: list[str] = field(
        default_factory=list, metadata={"help": f"Methods to hold against SelMix; default: all, which are {_NAMES}."}
    )
    num_settings: int = field(
        default=NUM_SETTINGS,
        metadata={"help": "Settings tried for each method, at most; 1: the most usual one, and no search."},
    )
    folds: int = field(
        default=2,
        metadata={"help": "Halves of the validation set that the search fits on, to measure on the other: 1, 2."},
    )

    def _check(self) -> None:
        super()._check()
        if self.num_settings < 1 or self.folds not in (1, 2):
            raise ValueError(
                f"num_settings must be at least 1 and folds 1 or 2, found {self.num_settings} and {self.folds}."
            )


def load(arguments: Arguments, folder: Path) -> BenchmarkData:
    dataset, modality = load_own(arguments, ["train", "test"])
    name = Path(arguments.dataset).name
    if "validation" not in dataset and arguments.split is None:
        name = f"{name} (rho = {arguments.imbalance_factor:g})"
    return own_data(arguments, dataset, modality, folder, name)


def _require_halves(data: BenchmarkData) -> None:
    """Refuse validation sets that the search cannot cut."""
    if "validation" not in data.splits:
        raise ValueError("there is no validation set, which steers the training: set validation_per_class above 0.")
    fewest = int(np.bincount(class_labels(data.splits["validation"], data.label_column)).min())
    if fewest < 4:
        raise ValueError(
            f"the search cuts the validation {data.samples} of each class into halves, twice; found a class with "
            f"{fewest}: set validation_per_class to 4 at least, or give a validation split that has them."
        )


def main(argv: list[str] | None = None, load: Callable[[Arguments, Path], BenchmarkData] = load) -> dict[str, Any]:
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    began = time.perf_counter()
    with leaving_with_a_sentence(SCRIPT):
        arguments, config = parse_arguments((Arguments, SelMixConfig), argv)
        for objective in arguments.objectives:
            config.make_objective(objective, class_counts=[1, 1])  # before anything else: is it known?
        methods = _chosen(arguments.methods, config)
        _refuse_what_is_not_compared(config)
        folder = Path(str(config.output_dir))
        data = without_bad_images(config, load(arguments, folder))
        _require_halves(data)
    checkpoint = run_stage1(SCRIPT, arguments, config, data)
    with leaving_with_a_sentence(SCRIPT):
        start = OneStart(arguments, config, data, checkpoint, ("train", "validation", "test"))
    is_main = config.process_index == 0
    say = partial(print, flush=True) if is_main else lambda *_: None
    say(data.summary)
    with naming_a_broken_image(SCRIPT, data):
        since = time.perf_counter()
        if config.freeze_backbone or any(method.on_features for method in methods.values()):
            say(f"Features of {len(start.dataset):,} {data.samples} ...")
            start.head_and_features()
        record: dict[str, Any] = {
            **provenance(SCRIPT, sys.argv[1:] if argv is None else argv, arguments, config, data.name),
            "task": data.modality.task,
            "remark": data.remark,
            "split_digest": data.digest,
            "train_counts": data.train_counts.tolist(),
            "num_test": len(start.rows["test"]),
            "feature_seconds": time.perf_counter() - since,
            "objectives": {},
        }
        comparison = Comparison(start, record["seeds"], arguments.num_settings, arguments.folds)
        for objective in arguments.objectives:
            say(f"For {objective}:")
            results: dict[str, Any] = {}
            for name, method in methods.items():
                result = results[name] = comparison.run(name, method, objective)
                psi = sum(report["psi"] for report in result["runs"]) / len(result["runs"])
                say(f"  {name}: {psi:.3f}, {result['seconds']:.1f} s a run, {result['setting'] or 'as it is'}")
            for name, result in results.items():
                result["selmix_minus"] = None if name == SELMIX else comparison.differences(result, results[SELMIX])
            record["objectives"][objective] = {
                name: {key: value for key, value in result.items() if key != "predicted"}
                for name, result in results.items()
            }
            machines = [
                m for methods in record["objectives"].values() for r in methods.values() for m in r["hardware"]
            ]
            record["hardware"] = ", ".join(dict.fromkeys(machines))
            record["seconds"] = time.perf_counter() - began + comparison.fits.seconds_before
            record = dict(rounded(record))
            if is_main:  # after every objective: none is lost
                (folder / "compare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                report = write_report(record, folder)
                (folder / "compare.md").write_text(report, encoding="utf-8")
    say(f"\n{report.partition(chr(10) * 2)[2] if is_main else ''}\nTable, numbers and picture are in {folder}/.")
    return record


def _refuse_what_is_not_compared(config: SelMixConfig) -> None:
    """Options that the comparison sets itself, or that would do nothing."""
    wrong = {
        "push_to_hub": config.push_to_hub,
        "resume_from_checkpoint": config.resume_from_checkpoint,
        "sampling": config.sampling is not None,
    }
    for name in [name for name, given in wrong.items() if given]:
        raise ValueError(f"{name} has no meaning in a comparison of many runs, of which none is kept: leave it out.")


def _chosen(names: list[str], config: SelMixConfig) -> dict[str, Method]:
    known = methods_of(config)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"--methods: unknown {', '.join(unknown)}; expected some of {', '.join(map(repr, known))}.")
    return {name: known[name] for name in known if not names or name in (*names, SELMIX)}


if __name__ == "__main__":
    main()

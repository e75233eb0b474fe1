"""A recipe, from its command line to results.json: the part that all recipes of a benchmark share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import transformers
from huggingface_hub.utils import validate_repo_id

from selmix_hf.config import SelMixConfig
from selmix_hf.studies.benchmark import Benchmark
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.data import BenchmarkData, without_bad_images
from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image
from selmix_hf.studies.record import command_of
from selmix_hf.studies.stage1 import run_stage1
from selmix_hf.studies.start import BenchmarkArguments, SemiSupervisedStart
from selmix_hf.studies.timing import Timer
from selmix_hf.training.resuming import require_checkpoint


def run_recipe(
    script: str,
    arguments_type: type[BenchmarkArguments],
    load: Callable[[Any, Path], BenchmarkData],
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Everything from the command line to results.json.

    Into output_dir go the model, plots, results.json, the card and, with a frozen backbone, head/ (a `SelMixHead`).

    Args:
        script: its file name, for messages and the card.
        arguments_type: the recipe's options.
        load: from the options and output_dir to the data.
        argv: the options; default those of the process.

    Returns:
        what results.json holds.

    Raises:
        SystemExit: with a sentence, when an option or the data are wrong, or when the push at the end failed.
    """
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    timer = Timer()
    with timer.part("loading"), leaving_with_a_sentence(script):  # what can be wrong is found before expensive work
        arguments, config = parse_arguments((arguments_type, SelMixConfig), argv)
        config.resume_from_checkpoint = _checkpoint_of(arguments, config)
        if config.push_to_hub and config.hub_model_id is not None:
            validate_repo_id(config.hub_model_id)
        data = without_bad_images(config, load(arguments, Path(config.output_dir)))
        if "unlabeled" not in data.splits and isinstance(arguments, SemiSupervisedStart):
            raise ValueError(
                f"there are no unlabelled {data.samples}: set unlabeled_max_per_class, or give a split with them."
            )
        if "validation" not in data.splits:
            raise ValueError(
                "there is no validation set, which steers the training: set validation_per_class above 0."
            )
    with timer.part("stage 1") if arguments.stage1_steps > 0 else nullcontext():
        checkpoint = run_stage1(script, arguments, config, data)
    command = command_of(script, sys.argv[1:] if argv is None else argv)
    with naming_a_broken_image(script, data):
        return Benchmark(script, arguments, config, data, timer, command).run(checkpoint)


def _checkpoint_of(arguments: BenchmarkArguments, config: SelMixConfig) -> str | None:
    """The folder that --resume_from_checkpoint names; of the latest checkpoint for "true"."""
    asked = config.resume_from_checkpoint
    if asked and len(arguments.seeds) > 1:
        raise ValueError("resume_from_checkpoint goes on with one run: give the one --seed, and its --output_dir.")
    which = True if str(asked).lower() == "true" else asked
    return require_checkpoint(which, config.output_dir, inexact=arguments.resume_inexactly)

"""A benchmark from its splits to its results: the part that all recipes share.

Shape suffix: N test samples.
"""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from huggingface_hub.utils import validate_repo_id

from selmix_hf.config import SelMixConfig
from selmix_hf.data.labels import class_labels
from selmix_hf.hub.saved_head import SelMixHead
from selmix_hf.hub.upload import PushError, create_repository, help_after_failure, push_folder, repeat_call
from selmix_hf.method.confusion import confusion_counts, distinct_names
from selmix_hf.reports.bootstrap import paired_bootstrap
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.reports.plots import save_plots
from selmix_hf.reports.tables import before_after_table, interval_note
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.record import command_of, rounded, run_report, settings_of, versions, without_folders
from selmix_hf.studies.start import BenchmarkArguments, SemiSupervisedStart, Stage1, augmentation, load_start
from selmix_hf.studies.timing import Timer, timing_line
from selmix_hf.training.progress_lines import ProgressLines
from selmix_hf.training.resuming import require_checkpoint
from selmix_hf.training.selmix import SelMixTrainer


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
        data = load(arguments, Path(config.output_dir))
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
        return _Benchmark(script, arguments, config, data, timer, command).run(checkpoint)


def run_stage1(script: str, arguments: BenchmarkArguments, config: SelMixConfig, data: BenchmarkData) -> str:
    """The checkpoint that SelMix starts from, trained here if the options say so.

    Raises:
        SystemExit: with a sentence, when an option is wrong or means nothing here, or an image cannot be decoded.
    """
    with naming_a_broken_image(script, data):
        with leaving_with_a_sentence(script):
            stage1 = Stage1(arguments, config, data)
        if config.process_index == 0 and stage1.trainer is not None:
            method = getattr(arguments, "stage1_method", "supervised")
            how = arguments.stage1_loss if method == "supervised" else f"{method}, {arguments.stage1_loss}"
            print(f"Stage 1, {how}: {arguments.stage1_steps} steps", flush=True)
        stage1.run()
    return stage1.checkpoint


def _checkpoint_of(arguments: BenchmarkArguments, config: SelMixConfig) -> str | None:
    """The folder that --resume_from_checkpoint names; of the latest checkpoint for "true"."""
    asked = config.resume_from_checkpoint
    if asked and len(arguments.seeds) > 1:
        raise ValueError("resume_from_checkpoint goes on with one run: give the one --seed, and its --output_dir.")
    return require_checkpoint(True if str(asked).lower() == "true" else asked, config.output_dir)


@contextmanager
def leaving_with_a_sentence(script: str) -> Iterator[None]:
    """Inside, what an option or the data have wrong ends the process with a sentence."""
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"{script}: {error}") from error


@contextmanager
def naming_a_broken_image(script: str, data: BenchmarkData) -> Iterator[None]:
    """Inside, an image that cannot be decoded ends the process with a sentence that names it."""
    try:
        yield
    except (OSError, SyntaxError) as error:  # what PIL raises, without a name
        if getattr(error, "errno", None) is not None:  # a full disk, a lost connection
            raise
        broken = data.broken_image()
        if broken is None:
            raise
        raise SystemExit(f"{script}: {broken}") from error


class _Benchmark:
    """One start, one run of SelMix for each seed, and the comparison on test."""

    def __init__(
        self,
        script: str,
        arguments: BenchmarkArguments,
        config: SelMixConfig,
        data: BenchmarkData,
        timer: Timer,
        command: str,
    ) -> None:
        self.script, self.arguments, self.data, self.timer, self.command = script, arguments, data, timer, command
        self.is_prepared = False  # the data, for the collator
        # Trainer would push while it trains, and a push that fails would take the run with it
        self.push, config.push_to_hub = config.push_to_hub, False
        config = config.for_classes(len(data.class_names))
        self.config, self.folder = config, Path(str(config.output_dir))
        self.names = distinct_names(data.class_names)
        self.labels = class_labels(data.splits["test"], data.label_column)
        seeds = arguments.seeds or [config.seed]
        self.configs = [copy.copy(config) for _ in seeds]
        for own, seed in zip(self.configs, seeds, strict=True):
            own.seed = seed
            own.output_dir = str(self.folder / f"seed_{seed}" if len(seeds) > 1 else self.folder)

    def run(self, checkpoint: str) -> dict[str, Any]:
        naming = naming_a_broken_image(self.script, self.data)
        with self.timer.part("loading"), leaving_with_a_sentence(self.script), naming:
            trainer = self._trainer(self.configs[0], checkpoint)
        is_main = trainer.is_world_process_zero()
        if is_main:
            print(self.data.summary)
            print(f"Looking at the test {self.data.samples} for the start ...", flush=True)
        start_N = self._predict(trainer)
        before, to_push = self._report(start_N), None
        runs: list[dict[str, Any]] = []
        predictions: list[np.ndarray] = []
        for config in self.configs:
            if config is not self.configs[0]:
                with self.timer.part("loading"):
                    trainer = self._trainer(config, checkpoint)
            trainer.log({f"test_{name}": value for name, value in before.items()})  # for the card
            if is_main:
                once = f"features of the training and validation {self.data.samples} once, then "
                first = once if config.freeze_backbone else ""
                print(f"Seed {config.seed}, {config.objective}: {first}{config.max_steps} steps", flush=True)
            began = time.perf_counter()
            with self.timer.part("training steps"):
                trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
            seconds = round(time.perf_counter() - began, 1)
            with self.timer.part("saving"):
                trainer.save_model()
            predictions.append(self._predict(trainer))
            after = self._report(predictions[-1])
            trainer.log({f"test_{name}": value for name, value in after.items()})
            runs.append({"seed": config.seed, "seconds": seconds, **run_report(trainer)})
            runs[-1] |= {"test_before": before, "test_after": after}
            if is_main:
                with self.timer.part("saving"):
                    self._save(trainer, start_N, predictions[-1])
            if self.push and to_push is None:
                to_push = trainer
        with self.timer.part("evaluation"):
            intervals = paired_bootstrap(
                self.labels,
                [start_N] * len(runs),
                predictions,
                len(self.names),
                train_counts=self.data.train_counts,
                tail_share=self.config.tail_share,
                worst_share=self.config.worst_share,
            )
        results = self._results(runs, intervals)
        if is_main:
            (self.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            seeds = ", ".join(str(run["seed"]) for run in runs)
            samples = self.data.samples
            print(f"\nOn the {len(self.labels):,} test {samples}, seeds {seeds}:\n")
            reports = [run["test_after"] for run in runs]
            print(before_after_table([before] * len(runs), reports, intervals, per_class=True, samples=samples))
            print(f"\n{interval_note(f'test {samples}', len(runs), 'worst_share' in before)}")
            print(f"Time: {timing_line(results['timing'])}")
            print(f"Model, plots and numbers are in {self.folder}/.", flush=True)
        if to_push is not None:
            if is_main and len(runs) > 1:
                shutil.copy(self.folder / "results.json", str(to_push.args.output_dir))
            self._push(to_push)
        return results

    def _trainer(self, config: SelMixConfig, checkpoint: str) -> SelMixTrainer:
        model, processor = load_start(self.arguments, self.data, checkpoint)
        if not self.is_prepared:
            self.data, self.is_prepared = self.data.prepared(processor), True
        used = getattr(self.arguments, "use_unlabeled", False)
        trainer = SelMixTrainer(
            model=model,
            args=config,
            train_dataset=self.data.splits["train"],
            gain_dataset=self.data.splits["validation"],
            eval_dataset=self.data.splits["validation"],  # chooses the checkpoint
            train_transform=augmentation(self.arguments, self.data, processor),
            processing_class=processor,
            data_collator=self.data.data_collator(processor),
            label_column=self.data.label_column,
            unlabeled_dataset=self.data.splits["unlabeled"] if used else None,
            unlabeled_labels=self.data.unlabeled_labels if used else None,
        )
        ProgressLines.replace_logs_of(trainer, every=max(1, config.max_steps // config.refresh_steps // 20))
        trainer.timed = self.timer.part
        return trainer

    def _predict(self, trainer: SelMixTrainer) -> np.ndarray:
        """Predicted classes of the test samples, shape N."""
        return trainer.predicted_classes(self.data.splits["test"]).numpy()

    def _counts(self, predicted_N: np.ndarray) -> torch.Tensor:
        return confusion_counts(torch.as_tensor(self.labels), torch.as_tensor(predicted_N), len(self.names))

    def _report(self, predicted_N: np.ndarray) -> dict[str, Any]:
        return classification_metrics(
            self._counts(predicted_N),
            train_counts=self.data.train_counts,
            class_names=self.names,
            tail_share=self.config.tail_share,
            worst_share=self.config.worst_share,
        )

    def _save(self, trainer: SelMixTrainer, before_N: np.ndarray, after_N: np.ndarray) -> None:
        folder = Path(str(trainer.args.output_dir))
        counts = self._counts(before_N), self._counts(after_N)
        save_plots(trainer, folder / "plots", *counts, set_name="the test set")
        if trainer.args.freeze_backbone:
            SelMixHead.from_model(trainer.model, trainer.head, trainer.class_names).save_pretrained(folder / "head")
        trainer.create_model_card(**self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "license": self.arguments.license,
            "finetuned_from": self.arguments.model_name_or_path,
            "dataset": self.data.name,
            "dataset_tags": self.data.dataset_id,
            "split_digest": self.data.digest,
            "remark": self.data.remark,
            "command": self.command,
            "tasks": self.data.modality.task,
        }

    def _results(self, runs: list[dict[str, Any]], intervals: dict[str, Any]) -> dict[str, Any]:
        results = {
            "name": (self.config.hub_model_id or self.folder.name).rpartition("/")[2],
            "objective": self.config.objective,
            "constraints": self.config.constraints,
            "settings": settings_of(self.config, self.arguments),
            "versions": versions(),
            "hardware": hardware(self.config.world_size, self.config.device.type == "cpu"),
            "command": self.command,
            "base_model": without_folders(self.arguments.model_name_or_path),
            "dataset": self.data.name,
            "dataset_id": self.data.dataset_id,
            "task": self.data.modality.task,
            "split_digest": self.data.digest,
            "remark": self.data.remark,
            "class_names": self.names,
            "train_counts": self.data.train_counts.tolist(),
            "num_unlabeled": len(self.data.splits.get("unlabeled", ()))
            * getattr(self.arguments, "use_unlabeled", False),
            "runs": runs,
            "change_and_interval": intervals,
            "timing": self.timer.report(),
        }
        return dict(rounded(results))

    def _push(self, trainer: SelMixTrainer) -> None:
        """The run of the first seed, when all is saved. Trainer's own push would name a trainer that is soon gone."""
        if not trainer.is_world_process_zero():
            return
        args, folder = trainer.args, str(Path(str(trainer.args.output_dir)).absolute())
        name, where = args.hub_model_id or self.folder.name, (args.hub_private_repo, args.hub_revision)
        code = f"from selmix_hf.hub.upload import push_folder; {repeat_call(folder, name, *where)}"
        readable = not set(code) & set('"$`\\!')
        again = f'python -c "{code}"' if readable else f"python -c {shlex.quote(code)}"
        try:
            help = help_after_failure(folder, again)
            repo_id = create_repository(name, help, args.hub_private_repo, args.hub_token)
            trainer.create_model_card(model_name=repo_id, **self._card())
            address = push_folder(folder, repo_id, again, *where, args.hub_token)
        except PushError as error:
            raise SystemExit(f"{self.script}: the run is complete, but {error}") from error
        except KeyboardInterrupt:  # how to repeat it was said
            raise SystemExit(130) from None
        print(f"Pushed: {address}", flush=True)

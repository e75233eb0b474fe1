"""The benchmark itself: from the data and a start to the results, in as many runs as there are seeds.

Shape suffix: N test samples.
"""

from __future__ import annotations

import copy
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selmix_hf.config import SelMixConfig
from selmix_hf.data.labels import class_labels
from selmix_hf.hub.saved_head import SelMixHead
from selmix_hf.method.confusion import confusion_counts, distinct_names
from selmix_hf.reports.bootstrap import paired_bootstrap
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.reports.plots import save_plots
from selmix_hf.reports.tables import before_after_table, interval_note
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image
from selmix_hf.studies.push import push_run
from selmix_hf.studies.record import run_report, settings_of, versions, without_folders
from selmix_hf.studies.results import FILE, Results, RunResults
from selmix_hf.studies.start import BenchmarkArguments, augmentation, load_start
from selmix_hf.studies.timing import Timer, timing_line
from selmix_hf.training.progress_lines import ProgressLines
from selmix_hf.training.selmix import SelMixTrainer


class Benchmark:
    """One start, one run of SelMix for each seed, and the comparison on test.

    Args:
        script: file name of the recipe, for messages.
        arguments: the recipe's options.
        config: of the runs; each of several seeds has a folder in its output_dir.
        data: the splits.
        timer: counts where the time goes.
        command: for results.json and the cards.
    """

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
        """All of it, from the checkpoint on; what results.json holds.

        Raises:
            SystemExit: with a sentence, when the checkpoint or an image is wrong, or when the push failed.
        """
        naming = naming_a_broken_image(self.script, self.data)
        with self.timer.part("loading"), leaving_with_a_sentence(self.script), naming:
            trainer = self._trainer(self.configs[0], checkpoint)
        is_main = trainer.is_world_process_zero()
        if is_main:
            print(self.data.summary)
            print(f"Looking at the test {self.data.samples} for the start ...", flush=True)
        start_N = self._predict(trainer)
        before, to_push = self._report(start_N), None
        runs: list[RunResults] = []
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
                trainer.train(
                    resume_from_checkpoint=config.resume_from_checkpoint, inexact=self.arguments.resume_inexactly
                )
            seconds = round(time.perf_counter() - began, 1)
            with self.timer.part("saving"):
                trainer.save_model()
            predictions.append(self._predict(trainer))
            after = self._report(predictions[-1])
            trainer.log({f"test_{name}": value for name, value in after.items()})
            own = {"seed": config.seed, "seconds": seconds, **run_report(trainer)}
            runs.append(RunResults(**own, test_before=before, test_after=after))
            if is_main:
                with self.timer.part("saving"):
                    self._save(trainer, start_N, predictions[-1])
            if self.push and to_push is None:  # the run of the first seed, once all is saved
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
        record = results.to_dict()
        if is_main:
            results.save(self.folder)
            seeds = ", ".join(str(run.seed) for run in runs)
            samples = self.data.samples
            print(f"\nOn the {len(self.labels):,} test {samples}, seeds {seeds}:\n")
            reports = [run.test_after for run in runs]
            print(before_after_table([before] * len(runs), reports, intervals, per_class=True, samples=samples))
            print(f"\n{interval_note(f'test {samples}', len(runs), 'worst_share' in before)}")
            print(f"Time: {timing_line(record['timing'])}")
            print(f"Model, plots and numbers are in {self.folder}/.", flush=True)
        if to_push is not None:
            if is_main and len(runs) > 1:
                shutil.copy(self.folder / FILE, str(to_push.args.output_dir))
            push_run(self.script, to_push, self.folder.name, self._card())
        return record

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

    def _results(self, runs: list[RunResults], intervals: dict[str, Any]) -> Results:
        used = getattr(self.arguments, "use_unlabeled", False)
        return Results(
            name=(self.config.hub_model_id or self.folder.name).rpartition("/")[2],
            objective=self.config.objective,
            constraints=self.config.constraints,
            settings=settings_of(self.config, self.arguments),
            versions=versions(),
            hardware=hardware(self.config.world_size, self.config.device.type == "cpu"),
            command=self.command,
            base_model=without_folders(self.arguments.model_name_or_path),
            dataset=self.data.name,
            dataset_id=self.data.dataset_id,
            task=self.data.modality.task,
            split_digest=self.data.digest,
            remark=self.data.remark,
            class_names=self.names,
            train_counts=self.data.train_counts.tolist(),
            num_unlabeled=len(self.data.splits.get("unlabeled", ())) * used,
            runs=runs,
            change_and_interval=intervals,
            timing=self.timer.report(),
        )

"""Stage 1 of a benchmark: the training that SelMix starts after."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from selmix_hf.config import SelMixConfig
from selmix_hf.models.loading import load_for_classes
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image
from selmix_hf.studies.start import (
    OF_STAGE1_METHOD,
    STAGE1_METHODS,
    BenchmarkArguments,
    augmentation,
    refuse_options_of_images,
)
from selmix_hf.training.readable import read_json
from selmix_hf.training.stage1 import Stage1Trainer

_DONE = "stage1.json"  # written last: the folder is complete


def run_stage1(script: str, arguments: BenchmarkArguments, config: SelMixConfig, data: BenchmarkData) -> str:
    """The checkpoint that SelMix starts from, trained here if the options say so.

    Raises:
        SystemExit: with a sentence, when an option is wrong or means nothing here, or an image cannot be decoded.
    """
    with naming_a_broken_image(script, data):
        with leaving_with_a_sentence(script):
            stage1 = Stage1(arguments, config, data)
        if config.process_index == 0 and stage1.trainer is not None:
            method = arguments.method_of_stage1
            how = arguments.stage1_loss if method == "supervised" else f"{method}, {arguments.stage1_loss}"
            print(f"Stage 1, {how}: {arguments.stage1_steps} steps", flush=True)
        stage1.run()
    return stage1.checkpoint


class Stage1:
    """The model goes to output_dir/stage1 and is used again where it is complete.

    Args:
        arguments: `stage1_steps` and its kin; 0 steps: the start is the checkpoint as it is.
        config: of the SelMix run: its folder, seed, device, precision and workers hold here too.
        data: the benchmark's.

    Attributes:
        checkpoint: what SelMix starts from.

    Raises:
        FileNotFoundError, ValueError: nothing to start from, options of images where the samples are none, or a model
            of other settings in output_dir/stage1.
    """

    def __init__(self, arguments: BenchmarkArguments, config: SelMixConfig, data: BenchmarkData) -> None:
        self.trainer: Stage1Trainer | None = None
        self.checkpoint = arguments.model_name_or_path
        refuse_options_of_images(arguments, config, data)
        if arguments.stage1_steps <= 0:
            return
        self.folder = Path(str(config.output_dir)) / "stage1"
        self.checkpoint = str(self.folder)
        self.settings: dict[str, Any] = {
            name: value for name, value in vars(arguments).items() if name.startswith("stage1_")
        }
        self.settings |= {name: getattr(arguments, name) for name in ("model_name_or_path", "image_size", "augment")}
        self.settings |= {"seed": config.seed, "split_digest": data.digest}
        of_texts = ("column", "max_length")
        self.settings |= {name: getattr(data.modality, name) for name in of_texts if hasattr(data.modality, name)}
        if (self.folder / _DONE).is_file():
            found = {option.name: option.default for option in fields(arguments)}  # of one that came later
            found |= read_json(self.folder / _DONE)
            others = [name for name in self.settings if found.get(name) != self.settings[name]]
            if others:
                raise ValueError(
                    f"{self.folder} holds a model of other settings ({others[0]}: {found.get(others[0])!r} there, "
                    f"{self.settings[others[0]]!r} here). Delete it, choose another --output_dir, or start from it by "
                    f"--model_name_or_path {self.folder}."
                )
            return
        set_seed(config.seed)  # of the new head
        model, processor = load_for_classes(
            arguments.model_name_or_path,
            data.class_names,
            arguments.image_size,
            data.modality,
            data.probe,
            arguments.weights_file,
        )
        data = data.prepared(processor)
        if arguments.channels_last:
            model = model.to(memory_format=torch.channels_last)
        options = TrainingArguments(
            str(self.folder),
            max_steps=arguments.stage1_steps,
            learning_rate=arguments.stage1_learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=arguments.stage1_steps // 20,
            optim=arguments.stage1_optim,
            optim_args=arguments.stage1_optim_args,
            weight_decay=arguments.stage1_weight_decay,
            per_device_train_batch_size=arguments.stage1_batch_size,
            save_strategy="no",
            logging_steps=max(1, arguments.stage1_steps // 20),
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
            use_cpu=config.use_cpu,
            bf16=config.bf16,
            fp16=config.fp16,
            dataloader_num_workers=config.dataloader_num_workers,
            dataloader_pin_memory=config.dataloader_pin_memory,
        )
        shared = {"train_dataset": data.splits["train"], "processing_class": processor}
        shared |= {"loss": arguments.stage1_loss, "label_column": data.label_column}
        view = augmentation(arguments, data, processor)
        method = arguments.method_of_stage1
        if method == "supervised":
            self.trainer = Stage1Trainer(
                model,
                options,
                **shared,
                data_collator=data.data_collator(processor),
                mixup_alpha=arguments.stage1_mixup_alpha,
                sampling=arguments.stage1_sampling,
                train_transform=view,
            )
            return
        own = {name: getattr(arguments, f"stage1_{name}") for name in OF_STAGE1_METHOD}
        own = {name: value for name, value in own.items() if value is not None}
        unlabeled = data.splits["unlabeled"]
        self.trainer = STAGE1_METHODS[method](
            model, options, **shared, unlabeled_dataset=unlabeled, weak_transform=view, **own
        )

    def run(self) -> None:
        """Train and save, if that is still to be done."""
        if self.trainer is None:
            return
        self.trainer.train()
        self.trainer.save_model()
        if self.trainer.is_world_process_zero():
            (self.folder / _DONE).write_text(json.dumps(self.settings, indent=1) + "\n", encoding="utf-8")
        self.trainer.accelerator.wait_for_everyone()  # the others read what the first one wrote
        self.trainer = None

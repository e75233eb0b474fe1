"""What a benchmark starts from: a checkpoint, or stage 1 run here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from selmix_hf.config import SelMixConfig
from selmix_hf.data.views import CropAndFlip, ResizedCropAndFlip, side_of
from selmix_hf.data.weighted import checked_sampling
from selmix_hf.models.loading import load_classifier, load_for_classes
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.training.semi_supervised.fixmatch import FixMatchTrainer
from selmix_hf.training.semi_supervised.mean_teacher import MeanTeacherTrainer
from selmix_hf.training.semi_supervised.mixmatch import MixMatchTrainer
from selmix_hf.training.stage1 import Stage1Trainer

_OF_METHOD = ("mu", "unlabeled_weight", "rampup_steps", "threshold", "ema_decay")
_DONE = "stage1.json"  # written last: the folder is complete


@dataclass(kw_only=True)
class BenchmarkArguments:
    """Options that all benchmarks share, beside those of SelMixConfig."""

    model_name_or_path: str = field(metadata={"help": "Start: a Hub id, or a folder with config.json and weights."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side of images in pixels; default: the checkpoint's."}
    )
    augment: bool = field(
        default=False, metadata={"help": "Random crop and flip of images; when frozen, see feature_views."}
    )
    channels_last: bool = field(
        default=False, metadata={"help": "Memory format of images; faster for many CNNs, even on CPU."}
    )
    license: str | None = field(
        default=None, metadata={"help": "Of the model, for the card; an identifier of the Hub."}
    )
    seeds: list[int] = field(default_factory=list, metadata={"help": "Repeat with these; default: --seed."})
    stage1_steps: int = field(default=0, metadata={"help": "Train for so many steps first; 0: start as it is."})
    stage1_loss: str = field(default="logit_adjusted", metadata={"help": "See Stage1Trainer."})
    stage1_learning_rate: float = field(default=1e-4, metadata={"help": "Peak; a warm-up, then a cosine to 0."})
    stage1_optim: str = field(default="adamw_torch", metadata={"help": "Optimizer of stage 1."})
    stage1_optim_args: str | None = field(
        default=None, metadata={"help": "Of that optimizer: momentum=0.9,nesterov=true."}
    )
    stage1_weight_decay: float = field(default=0.0, metadata={"help": "Of stage 1."})
    stage1_batch_size: int = field(default=64, metadata={"help": "Samples a step and device."})
    stage1_mixup_alpha: float = field(default=0.0, metadata={"help": "Of mixup in stage 1; 0: none."})
    stage1_sampling: str = field(default="natural", metadata={"help": "As SelMixConfig's sampling, for stage 1."})

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        for name, least in (("image_size", 1), ("stage1_steps", 0), ("stage1_batch_size", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}.")
        if not self.stage1_learning_rate > 0:
            raise ValueError(f"stage1_learning_rate must be positive, found {self.stage1_learning_rate}.")
        checked_sampling(self.stage1_sampling)
        if len(set(self.seeds)) < len(self.seeds) or not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds must differ and lie between 0 and 2**32 - 1, found {self.seeds}.")


METHODS = {"fixmatch": FixMatchTrainer, "mean_teacher": MeanTeacherTrainer, "mixmatch": MixMatchTrainer}


@dataclass(kw_only=True)
class SemiSupervisedStart(BenchmarkArguments):
    """Options of stage 1 with unlabelled images."""

    stage1_method: str = field(default="fixmatch", metadata={"help": f"supervised, {', '.join(METHODS)}."})
    stage1_mu: int | None = field(default=None, metadata={"help": "Unlabelled images for each labelled one."})
    stage1_unlabeled_weight: float | None = field(default=None, metadata={"help": "Default: the method's."})
    stage1_rampup_steps: int | None = field(default=None, metadata={"help": "Of that weight; default: the method's."})
    stage1_threshold: float | None = field(default=None, metadata={"help": "Of FixMatch; default: 0.95."})
    stage1_ema_decay: float = field(default=0.999, metadata={"help": "Of the weights that are evaluated and saved."})

    def _check(self) -> None:
        super()._check()
        if self.stage1_method not in ("supervised", *METHODS):
            raise ValueError(
                f"stage1_method must be one of supervised, {', '.join(METHODS)}, found {self.stage1_method!r}."
            )
        given = [name for name in _OF_METHOD if name != "ema_decay" and getattr(self, f"stage1_{name}") is not None]
        if self.stage1_method == "supervised" and given:
            raise ValueError(f"stage1_{given[0]} is for unlabelled images, which stage1_method=supervised leaves out.")
        if self.stage1_method != "supervised" and self.stage1_mixup_alpha:
            raise ValueError(
                f"stage1_mixup_alpha is for stage1_method=supervised: {self.stage1_method} has its views."
            )
        if self.stage1_method != "supervised" and self.stage1_sampling != "natural":
            raise ValueError(
                f"stage1_sampling is for stage1_method=supervised: {self.stage1_method} draws as its paper does."
            )
        if self.stage1_threshold is not None and self.stage1_method != "fixmatch":
            raise ValueError(f"stage1_threshold is FixMatch's: {self.stage1_method} has none, leave it out.")


def refuse_options_of_images(arguments: BenchmarkArguments, config: SelMixConfig, data: BenchmarkData) -> None:
    """Refuse options that mean nothing for what the samples are.

    Raises:
        ValueError: one of them was given.
    """
    of_images = {
        "image_size": arguments.image_size is not None,
        "augment": arguments.augment,
        "channels_last": arguments.channels_last,
        "stage1_method": getattr(arguments, "stage1_method", "supervised") != "supervised",
        "mixing": config.mixing in ("cutmix", "puzzlemix"),
    }
    of_floats = {"mixing": config.mixing != "feature", "stage1_mixup_alpha": arguments.stage1_mixup_alpha > 0}
    modality = data.modality
    given = [name for name, is_given in of_images.items() if is_given and not modality.of_pixels]
    given += [name for name, is_given in of_floats.items() if is_given and not modality.of_floats]
    if given:
        raise ValueError(f"{given[0]} is for images, and these data are for {modality.task}: leave it out.")


def augmentation(arguments: BenchmarkArguments, data: BenchmarkData, processor: Any) -> CropAndFlip | None:
    """The random view that the options and the kind of images ask for."""
    if not arguments.augment:
        return None
    if data.photos:
        return ResizedCropAndFlip(processor, side_of(processor))
    return CropAndFlip(processor, min(data.splits["train"][0][data.image_column].size))


class Stage1:
    """Stage 1 of a benchmark; the model goes to output_dir/stage1 and is used again where it is complete.

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
            found |= json.loads((self.folder / _DONE).read_text(encoding="utf-8"))
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
            arguments.model_name_or_path, data.class_names, arguments.image_size, data.modality, data.probe
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
        method = getattr(arguments, "stage1_method", "supervised")
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
        own = {name: getattr(arguments, f"stage1_{name}") for name in _OF_METHOD}
        own = {name: value for name, value in own.items() if value is not None}
        unlabeled = data.splits["unlabeled"]
        self.trainer = METHODS[method](
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


def load_start(arguments: BenchmarkArguments, data: BenchmarkData, checkpoint: str) -> tuple[Any, Any]:
    """Model and processor (of images, a tokenizer, ...) that SelMix starts from."""
    model, processor = load_classifier(checkpoint, data.class_names, arguments.image_size, data.modality)
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, processor

"""What a benchmark starts from: its options, the model, and how images are seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from selmix_hf.config import SelMixConfig
from selmix_hf.data.classes import resolve_class_names
from selmix_hf.data.views import CropAndFlip, ResizedCropAndFlip, side_of
from selmix_hf.data.weighted import checked_sampling
from selmix_hf.mixing.registry import MIXING
from selmix_hf.models.class_order import number_outputs
from selmix_hf.models.loading import load_classifier
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.training.semi_supervised.fixmatch import FixMatchTrainer
from selmix_hf.training.semi_supervised.mean_teacher import MeanTeacherTrainer
from selmix_hf.training.semi_supervised.mixmatch import MixMatchTrainer
from selmix_hf.training.stage1 import LOSSES

STAGE1_METHODS = {"fixmatch": FixMatchTrainer, "mean_teacher": MeanTeacherTrainer, "mixmatch": MixMatchTrainer}
OF_STAGE1_METHOD = ("mu", "unlabeled_weight", "rampup_steps", "threshold", "ema_decay")  # its own options


@dataclass(kw_only=True)
class BenchmarkArguments:
    """Options that all benchmarks share, beside those of SelMixConfig."""

    model_name_or_path: str = field(
        metadata={"help": "The model to fine-tune: a Hub id, or a folder with config.json and weights."}
    )
    weights_file: str | None = field(
        default=None,
        metadata={"help": "The model's weights where they are pickled and you trust them: pytorch_model.bin."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images in pixels; default: the checkpoint's own."}
    )
    augment: bool = field(
        default=False,
        metadata={"help": "Crop and flip training images at random; frozen, in --feature_views stored views."},
    )
    channels_last: bool = field(
        default=False, metadata={"help": "Memory format of images and weights; faster for many CNNs, even on CPU."}
    )
    license: str | None = field(
        default=None, metadata={"help": "License of the fine-tuned model, for its card: an identifier of the Hub."}
    )
    seeds: list[int] = field(
        default_factory=list, metadata={"help": "Seeds, one run with each; default: the one of --seed."}
    )
    resume_inexactly: bool = field(
        default=False,
        metadata={"help": "Let --resume_from_checkpoint go on without optimizer state, or with changed options."},
    )
    stage1_steps: int = field(
        default=0, metadata={"help": "Steps of stage 1, which trains the model before SelMix does; 0: no stage 1."}
    )
    stage1_loss: str = field(
        default="logit_adjusted",
        metadata={"help": f"Loss of stage 1: {', '.join(LOSSES)}."},
    )
    stage1_learning_rate: float = field(
        default=1e-4, metadata={"help": "Highest learning rate of stage 1: a warm-up, then a cosine to 0."}
    )
    stage1_optim: str = field(
        default="adamw_torch", metadata={"help": "Optimizer of stage 1, as --optim is that of SelMix."}
    )
    stage1_optim_args: str | None = field(
        default=None, metadata={"help": "Arguments of stage 1's optimizer, such as momentum=0.9,nesterov=true."}
    )
    stage1_weight_decay: float = field(default=0.0, metadata={"help": "Weight decay in stage 1."})
    stage1_batch_size: int = field(default=64, metadata={"help": "Labelled samples a step and device in stage 1."})
    stage1_mixup_alpha: float = field(
        default=0.0, metadata={"help": "Stage 1 mixes images by shares from Beta(alpha, alpha); 0: no mixup."}
    )
    stage1_sampling: str = field(
        default="natural", metadata={"help": "How stage 1 draws samples, as --sampling has it for SelMix."}
    )

    @property
    def method_of_stage1(self) -> str:
        """Such as "fixmatch"; "supervised" without unlabelled samples."""
        return "supervised"

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


@dataclass(kw_only=True)
class SemiSupervisedStart(BenchmarkArguments):
    """Options of stage 1 with unlabelled images."""

    stage1_method: str = field(
        default="fixmatch", metadata={"help": f"How stage 1 trains: {', '.join(STAGE1_METHODS)} or supervised."}
    )
    stage1_mu: int | None = field(
        default=None, metadata={"help": "Unlabelled images for each labelled one in stage 1; default: the method's."}
    )
    stage1_unlabeled_weight: float | None = field(
        default=None, metadata={"help": "Weight of stage 1's unlabelled loss; default: the method's."}
    )
    stage1_rampup_steps: int | None = field(
        default=None,
        metadata={"help": "Steps over which the weight of stage 1's unlabelled loss rises; default: the method's."},
    )
    stage1_threshold: float | None = field(
        default=None, metadata={"help": "Least confidence of a pseudo-label in stage 1 by FixMatch; default: 0.95."}
    )
    stage1_ema_decay: float = field(
        default=0.999, metadata={"help": "Decay of the average of weights that stage 1 evaluates and saves."}
    )

    @property
    def method_of_stage1(self) -> str:
        return self.stage1_method

    def _check(self) -> None:
        super()._check()
        if self.stage1_method not in ("supervised", *STAGE1_METHODS):
            raise ValueError(
                f"stage1_method must be one of supervised, {', '.join(STAGE1_METHODS)}, found {self.stage1_method!r}."
            )
        given = [
            name for name in OF_STAGE1_METHOD if name != "ema_decay" and getattr(self, f"stage1_{name}") is not None
        ]
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
        "stage1_method": arguments.method_of_stage1 != "supervised",
        "mixing": MIXING[config.mixing].needs_pixels,
    }
    of_floats = {"mixing": MIXING[config.mixing].before_model, "stage1_mixup_alpha": arguments.stage1_mixup_alpha > 0}
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


def load_start(arguments: BenchmarkArguments, data: BenchmarkData, checkpoint: str) -> tuple[Any, Any]:
    """Model, its outputs in the order of the data's classes, and processor that SelMix starts from.

    Raises:
        FileNotFoundError, ValueError: as `loading.load_classifier` and `class_order.number_outputs`.
    """
    asked = arguments.weights_file if checkpoint == arguments.model_name_or_path else None  # stage 1 saves safetensors
    model, processor = load_classifier(checkpoint, data.class_names, arguments.image_size, data.modality, asked)
    resolve_class_names(model, data.splits["train"], data.label_column, len(data.class_names))
    number_outputs(model, data.class_names, data.probe(processor))
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, processor

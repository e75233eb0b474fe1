"""Raise the worst class of a small classifier in under a minute, with real data and without a network.

    accelerate launch recipes/quickstart.py

The 1,797 handwritten digits of scikit-learn are made long-tailed (84 images of "0" down to 2 of "9"). Stage 1 trains
a small timm network from random weights with the logit-adjusted loss and transformers' own Trainer, until it stops
improving. Stage 2 is SelMixTrainer for the recall of the worst class. The 600 test images are looked at at the end.

    accelerate launch recipes/quickstart.py --objective h_mean --seed 3 --output_dir digits
    accelerate launch recipes/quickstart.py --seeds 0 1 2 3 4     # with two rivals that get as many steps, in Markdown
"""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from selmix_hf import (
    ImageCollator,
    LogitAdjustedLoss,
    SelMixConfig,
    SelMixTrainer,
    classification_metrics,
    confusion_counts,
    make_long_tailed,
    save_plots,
)
from selmix_hf.arguments import parse_arguments
from selmix_hf.callbacks import ProgressLines
from selmix_hf.comparison import before_after_table, seeds_table
from selmix_hf.metrics import make_compute_metrics

ARCHITECTURE = "test_resnet"
PIXELS = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
CLASSES = [str(digit) for digit in range(10)]


from torchvision.transforms import v2
import os

AUG = int(os.environ.get("AUG", "1"))
aug = v2.Compose(
    [
        v2.Resize(32),
        v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), shear=8),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
)


class _C:
    def __init__(s):
        s.a = ImageCollator(transform=aug)
        s.b = ImageCollator(image_processor())
        s.t = True

    def __call__(s, e):
        return s.a(e) if len(e) <= 32 else s.b(e)


@dataclass
class Arguments:
    objective: str = field(default="min_recall", metadata={"help": "What SelMix optimises."})
    output_dir: str = field(default="quickstart_output", metadata={"help": "For the model, plots and numbers."})
    seed: int = field(default=0, metadata={"help": "Of the split, the weights and the draws."})
    seeds: list[int] = field(default_factory=list, metadata={"help": "Compare with rivals over these seeds."})
    stage1_steps: int = field(default=400, metadata={"help": "Of stage 1, at most."})
    max_steps: int = field(default=300, metadata={"help": "Of SelMix."})


def long_tailed_digits(seed: int) -> DatasetDict:
    """Splits train (long-tailed), validation (30 a class) and test (60 a class)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = [(image * 255 / 16).astype(np.uint8) for image in digits.images]
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    dataset = Dataset.from_dict({"image": images, "label": digits.target}, features=features)
    parts = make_long_tailed(dataset, imbalance_factor=1, validation_per_class=70, seed=seed)
    splits = make_long_tailed(
        parts["train"], imbalance_factor=60, max_per_class=60, validation_per_class=40, seed=seed
    )
    return DatasetDict(**splits, test=parts["validation"])


def train_stage1(
    model: TimmWrapperForImageClassification,
    arguments: Arguments,
    seed: int,
    splits: DatasetDict,
    steps: int,
    metric: str,
) -> Trainer:
    """Train with the logit-adjusted loss; the trainer's model is the best one by a metric of the validation set."""
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            f"{arguments.output_dir}/stage1",
            max_steps=steps,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=100,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            eval_strategy="steps",
            eval_steps=25,
            save_strategy="best",
            save_total_limit=1,
            save_only_model=True,
            load_best_model_at_end=True,
            metric_for_best_model=metric,
            greater_is_better=True,
            remove_unused_columns=False,
            disable_tqdm=True,
            report_to="none",
            seed=seed,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=ImageCollator(image_processor()) if not AUG else _C(),
        compute_loss_func=LogitAdjustedLoss(np.bincount(splits["train"]["label"])),
        compute_metrics=make_compute_metrics(len(CLASSES), per_class=False),
    )
    ProgressLines.replace_logs_of(trainer, every=2)
    return trainer


def image_processor() -> TimmWrapperImageProcessor:
    return TimmWrapperImageProcessor(PIXELS, ARCHITECTURE)


def new_model(seed: int) -> TimmWrapperForImageClassification:
    set_seed(seed)
    names = dict(enumerate(CLASSES))
    config = TimmWrapperConfig(
        architecture=ARCHITECTURE,
        pretrained_cfg=PIXELS,
        id2label=names,
        label2id={name: k for k, name in names.items()},
    )
    return TimmWrapperForImageClassification(config)


def fine_tune(
    model, arguments: Arguments, seed: int, splits: DatasetDict, pair_sampling: str = "selmix"
) -> SelMixTrainer:
    trainer = SelMixTrainer(
        model=model,
        args=SelMixConfig(
            f"{arguments.output_dir}/{pair_sampling}",
            objective=arguments.objective,
            freeze_backbone=True,
            pair_sampling=pair_sampling,
            max_steps=arguments.max_steps,
            per_device_eval_batch_size=100,
            save_total_limit=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            report_to="none",
            seed=seed,
        ),
        train_dataset=splits["train"],
        gain_dataset=splits["validation"],
        processing_class=image_processor(),
    )
    ProgressLines.replace_logs_of(trainer, every=10)
    return trainer


def test_counts(model, splits):
    trainer = Trainer(
        model,
        TrainingArguments(
            "/tmp/unused",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            report_to="none",
        ),
        data_collator=ImageCollator(image_processor()),
    )
    out = trainer.predict(splits["test"])
    return confusion_counts(torch.as_tensor(out.label_ids), torch.as_tensor(out.predictions), len(CLASSES))

"""Do the defaults help, and never hurt, whatever the start?

    SELMIX_REFERENCE_DATA=... python -m benchmarks.starts --seeds 0 1 2

Starts on CIFAR-10-LT (rho = 100; the split of the reference checkpoint): a tf_efficientnet_lite0 with ImageNet weights
fine-tuned at 64 px, and a small ResNet trained at 32 px from random weights; on digits (rho = 60): a small ResNet.
Each once with the logit-adjusted loss and once with plain cross entropy. From every start one SelMixTrainer a seed,
with nothing set but the objective and the frozen backbone. The test images are looked at for this table alone.

A start is trained once and kept in --output_dir; delete its folder to train it again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import DatasetDict
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments, set_seed
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from recipes.quickstart import PIXELS, long_tailed_digits
from selmix_hf import SelMixConfig, SelMixTrainer, Stage1Trainer
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.models.loading import load_images
from selmix_hf.reports.metrics import classification_metrics, counts_of
from selmix_hf.reports.tables import INTERVAL, interval_cell, markdown_table, mean_and_sd
from selmix_hf.training.progress_lines import ProgressLines

REFERENCE = "checkpoints/cifar10-lt-r100-tf_efficientnet_lite0"
IMAGENET = "checkpoints/imagenet1k-tf_efficientnet_lite0"


@dataclass(frozen=True)
class Start:
    data: str
    network: str
    loss: str
    side: int
    architecture: str
    stage1_steps: int  # of 64 images
    learning_rate: float

    @property
    def folder(self) -> str:
        return f"{self.data}-{self.network}-{self.loss}".replace(" ", "_")


STARTS = [
    Start("digits", "scratch", "logit-adjusted", 32, "test_resnet", 400, 0.1),
    Start("digits", "scratch", "plain", 32, "test_resnet", 400, 0.1),
    Start("CIFAR-10-LT", "scratch", "logit-adjusted", 32, "test_resnet", 1500, 0.1),
    Start("CIFAR-10-LT", "scratch", "plain", 32, "test_resnet", 1500, 0.1),
    Start("CIFAR-10-LT", "lite0", "plain", 64, "tf_efficientnet_lite0", 400, 0.01),
    Start("CIFAR-10-LT", "lite0", "logit-adjusted", 64, "tf_efficientnet_lite0", 0, 0),  # the reference itself
]


def cifar10_lt(root: Path) -> DatasetDict:
    dataset = load_images(str(root / "data" / "cifar10"))
    splits = LongTailedSplit.load(root / REFERENCE / "split.json").apply(dataset["train"])
    return DatasetDict(**splits, test=dataset["test"])


def digits(root: Path) -> DatasetDict:
    return long_tailed_digits(seed=0)


def crop_and_flip(processor: Any, start: Start) -> Callable[[Any], torch.Tensor]:
    """What the processor makes of an image, padded and cropped at random; photographs are flipped too."""
    from torchvision.transforms import v2

    crop = v2.RandomCrop(start.side, padding=start.side // 8)
    augment = crop if start.data == "digits" else v2.Compose([crop, v2.RandomHorizontalFlip()])
    return lambda image: augment(processor(image, return_tensors="pt")["pixel_values"][0])


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False)
    return model.to(memory_format=torch.channels_last), AutoImageProcessor.from_pretrained(
        folder, trust_remote_code=False
    )


def untrained(start: Start, root: Path, num_classes: int) -> tuple[Any, Any]:
    set_seed(0)
    if start.network == "lite0":
        model = AutoModelForImageClassification.from_pretrained(
            root / IMAGENET, num_labels=num_classes, ignore_mismatched_sizes=True, trust_remote_code=False
        )
        pixels = model.config.pretrained_cfg = {**model.config.pretrained_cfg, "input_size": [3, 64, 64]}
    else:
        pixels = PIXELS
        model = TimmWrapperForImageClassification(
            TimmWrapperConfig(architecture=start.architecture, pretrained_cfg=pixels, num_labels=num_classes)
        )
    return model.to(memory_format=torch.channels_last), TimmWrapperImageProcessor(pixels, start.architecture)


def train_start(start: Start, root: Path, folder: Path, splits: DatasetDict, names: list[str]) -> None:
    """Stage 1: momentum, cosine, cropped and flipped images; a fixed length, nothing selected."""
    model, processor = untrained(start, root, len(names))
    trainer = Stage1Trainer(
        model,
        TrainingArguments(
            str(folder / "run"),
            max_steps=start.stage1_steps,
            per_device_train_batch_size=64,
            learning_rate=start.learning_rate,
            optim="sgd",
            optim_args="momentum=0.9",
            weight_decay=5e-4,
            warmup_steps=50,
            lr_scheduler_type="cosine",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=100,
        ),
        train_dataset=splits["train"],
        processing_class=processor,
        train_transform=crop_and_flip(processor, start),
        loss="logit_adjusted" if start.loss == "logit-adjusted" else "cross_entropy",
    )
    trainer.train()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def test_counts(trainer: SelMixTrainer, splits: DatasetDict, num_classes: int) -> torch.Tensor:
    return counts_of(trainer.predict(splits["test"])[:2], num_classes)


def standard_error(counts: torch.Tensor) -> float:
    """Of mean recall, from the number of test samples of each class."""
    recall, size = counts.diagonal() / counts.sum(1), counts.sum(1)
    return float((recall * (1 - recall) / size).sum().sqrt() / len(recall))


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a start, before and after, on the test images."""
    rows = []
    for of_start in results:
        start, before, after = of_start["start"], of_start["before"], of_start["after"]
        mean, worst = (mean_and_sd([report[name] for report in after]) for name in ("mean_recall", "min_recall"))
        numbers = [
            f"{value:.3f}" for value in (before["mean_recall"], of_start["standard_error"], before["min_recall"])
        ]
        rows.append([f"{start['data']}, {start['network']}, {start['loss']}", numbers[0], mean, *numbers[1:], worst])
        rows[-1].append(interval_cell(after, "min_recall"))
    header = ["start", "mean recall", "after", "its standard error", "worst-class recall", "after", INTERVAL]
    return markdown_table(header, rows)


def main(argv: list[str] | None = None) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--objective", default="min_recall")
    parser.add_argument("--output_dir", type=Path, default=Path("starts"))
    given = parser.parse_args(argv)
    root = Path(os.environ["SELMIX_REFERENCE_DATA"])
    sets: dict[str, Callable[[Path], DatasetDict]] = {"CIFAR-10-LT": cifar10_lt, "digits": digits}
    results = []
    for start in STARTS:
        splits = sets[start.data](root)
        names = splits["test"].features["label"].names
        folder = given.output_dir / start.folder if start.stage1_steps else root / REFERENCE
        if not (folder / "config.json").is_file():
            print(f"stage 1: {start.data}, {start.network}, {start.loss}", flush=True)
            train_start(start, root, folder, splits, names)
        before, error, after = {}, 0.0, []
        for seed in given.seeds:
            model, processor = load(folder)
            trainer = SelMixTrainer(
                model=model,
                args=SelMixConfig(
                    str(given.output_dir / start.folder / f"selmix_{seed}"),
                    objective=given.objective,
                    freeze_backbone=True,
                    seed=seed,
                    per_device_eval_batch_size=128,
                    feature_cache_dir=str(given.output_dir / "features"),
                ),
                train_dataset=splits["train"],
                gain_dataset=splits["validation"],
                eval_dataset=splits["validation"],
                processing_class=processor,
            )
            ProgressLines.replace_logs_of(trainer, every=50)
            if not before:
                counts = test_counts(trainer, splits, len(names))
                before, error = classification_metrics(counts, class_names=names), standard_error(counts)
            trainer.train()
            after.append(classification_metrics(test_counts(trainer, splits, len(names)), class_names=names))
        results.append({"start": vars(start), "before": before, "standard_error": error, "after": after})
        (given.output_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(table(results[-1:]).splitlines()[-1], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()

"""Seconds of fine-tuning a head on stored features: SelMixTrainer, stock Trainer, and a bare PyTorch loop.

    python -m benchmarks.frozen
    python -m benchmarks.frozen --steps 500 --refreshes 10 --repeats 1

The same steps for all three, by turns in one process: SGD on one linear head, batches of 64, no evaluation, no
checkpoint. SelMix mixes 64 pairs a step and refreshes P from 5,000 validation features; the features are there before
the clock starts, as the backbone is the identity and its pass is timed apart ("features").
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.gain import hardware
from benchmarks.pairs import ratio
from selmix_hf import SelMixConfig, SelMixTrainer
from selmix_hf.reports.tables import markdown_table
from selmix_hf.studies.timing import Timer


class HeadConfig(PretrainedConfig):
    model_type = "bare-head"


class BareHead(PreTrainedModel):
    """A classifier whose features are its inputs."""

    config_class = HeadConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pool = nn.Identity()
        self.classifier = nn.Linear(config.num_features, config.num_labels)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        logits = self.classifier(self.pool(pixel_values))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class StoredSet(Dataset[dict[str, Any]]):
    """Features (N x D) and labels (N)."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.features[index], "label": int(self.labels[index])}


def drawn_set(num_samples: int, num_features: int, num_classes: int, seed: int) -> StoredSet:
    """Equally many random samples around each class's centre."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_samples) % num_classes
    centres = torch.randn(num_classes, num_features, generator=torch.Generator().manual_seed(99))
    return StoredSet(centres[labels] * 0.1 + torch.randn(num_samples, num_features, generator=generator), labels)


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.as_tensor([example["label"] for example in examples]),
    }


def model(options: argparse.Namespace) -> BareHead:
    torch.manual_seed(0)
    return BareHead(HeadConfig(num_features=options.features, num_labels=options.classes))


def arguments(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch,
        "learning_rate": 0.01,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_steps": options.steps // options.refreshes,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def selmix(options: argparse.Namespace, train: StoredSet, gain: StoredSet, folder: str) -> tuple[float, float]:
    """Seconds without those of the features, and these."""
    trainer = SelMixTrainer(
        model(options),
        SelMixConfig(
            **arguments(options, folder),
            objective="min_recall",
            refresh_steps=options.steps // options.refreshes,
            freeze_backbone=True,
            load_best_model_at_end=False,
            head_start="as_is",  # the steps are timed, not what comes before
        ),
        train_dataset=train,
        gain_dataset=gain,
        data_collator=collate,
        label_column="label",
    )
    timer = Timer()
    trainer.timed = timer.part
    start = time.perf_counter()
    trainer.train()
    features = timer.seconds["features"]
    return time.perf_counter() - start - features, features


def stock(options: argparse.Namespace, train: StoredSet, folder: str) -> float:
    """Plain Trainer on the features."""
    trainer = Trainer(
        model(options),
        TrainingArguments(**arguments(options, folder), remove_unused_columns=False),
        train_dataset=train,
        data_collator=collate,
    )
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def bare(options: argparse.Namespace, train: StoredSet) -> float:
    """No Trainer: random rows of a tensor, a matrix product, a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = model(options).classifier.to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    start = time.perf_counter()
    for _ in range(options.steps):
        rows = torch.randint(len(train), (options.batch,))
        loss = F.cross_entropy(head(train.features[rows].to(device)), train.labels[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """Markdown: best of the repeats, with the spread of the ratio over them."""
    seconds = result["seconds"]
    rows = [
        [title, f"{min(seconds[name]):.2f}", ratio(seconds[name], seconds["stock"])]
        for name, title in (
            ("selmix", f"SelMixTrainer, {result['refreshes']} refreshes"),
            ("stock", "stock Trainer"),
            ("bare", "bare PyTorch loop"),
        )
    ]
    return markdown_table([f"{result['steps']:,} steps of {result['batch']}", "s", "of stock Trainer"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--refreshes", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64, help="pairs for SelMix, samples for the others")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    train = drawn_set(12_000, options.features, options.classes, 0)
    gain = drawn_set(5_000, options.features, options.classes, 1)
    seconds: dict[str, list[float]] = {"selmix": [], "features": [], "stock": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for name, taken in zip(("selmix", "features"), selmix(options, train, gain, folder), strict=True):
                seconds[name].append(taken)
            seconds["stock"].append(stock(options, train, folder))
            seconds["bare"].append(bare(options, train))
    sizes = {name: getattr(options, name) for name in ("steps", "refreshes", "batch", "features", "classes")}
    result = {"hardware": hardware(), **sizes, "train": len(train), "gain": len(gain), "seconds": seconds}
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""`SelMixTrainer` on features that are there already: its frozen backbone is the identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback

from benchmarks.frozen import BareHead, HeadConfig, StoredSet, collate
from selmix_hf import SelMixConfig, SelMixTrainer

# recipes/configs/ten_classes.yaml but for the length
TEN_CLASSES = {"learning_rate": 0.01, "refresh_steps": 10, "confusion": "hard", "head_start": "as_is"}
Set = tuple[Tensor, Tensor]  # features N x D, labels N
Head = tuple[Tensor, Tensor]


class KnownFeatures:
    """Takes the place of a feature cache: a set that has its features needs no pass."""

    def features(self, look: Any, dataset: Any, collator: Any, seed: int = 0) -> Tensor:
        known: Tensor = dataset.features
        return known


def trainer_on_features(
    train: Set, gain: Set, head: Head, folder: str | Path, callbacks: list[Any] | None = None, **options: Any
) -> SelMixTrainer:
    """A trainer that starts from the head and neither evaluates nor saves.

    Args:
        options: of `SelMixConfig`.
    """
    num_labels, num_features = head[0].shape
    model = BareHead(HeadConfig(num_features=num_features, num_labels=num_labels))
    model.classifier.weight.data, model.classifier.bias.data = head[0].clone(), head[1].clone()
    quiet = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "report_to": "none"}
    trainer = SelMixTrainer(
        model,
        SelMixConfig(
            str(folder),
            freeze_backbone=True,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=10_000,
            per_device_eval_batch_size=1024,
            **{**quiet, **options},
        ),
        train_dataset=StoredSet(*train),
        gain_dataset=StoredSet(*gain),
        data_collator=collate,
        label_column="label",
        callbacks=callbacks,
    )
    trainer.passes.cache = KnownFeatures()
    trainer.remove_callback(PrinterCallback)
    return trainer

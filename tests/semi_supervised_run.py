"""Tiny semi-supervised runs, also what test_semi_supervised starts in two processes:

torchrun --nproc_per_node 2 tests/semi_supervised_run.py FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import TrainingArguments

from selmix_hf import FixMatchTrainer, MeanTeacherTrainer, MixMatchTrainer

METHODS = {
    "fixmatch": (FixMatchTrainer, {"threshold": 0.3, "strong_transform": tiny.torchvision_view(), "mu": 2}),
    "mean_teacher": (MeanTeacherTrainer, {"mu": 2, "rampup_steps": 4}),
    "mixmatch": (MixMatchTrainer, {"mu": 2, "rampup_steps": 4}),
}
COUNTS = (5, 3, 3, 1)  # 12 labelled images: with 8 a step, epochs are of 16 draws, two steps
ARGUMENTS = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_num_workers")
ARGUMENTS += ("save_strategy", "save_steps", "load_best_model_at_end", "eval_strategy", "eval_steps", "seed")
ARGUMENTS += ("train_sampling_strategy", "length_column_name", "label_smoothing_factor")


def unlabeled(labels: bool = False) -> Any:
    data = tiny.images((6, 5, 6, 6), seed=7)
    return data if labels else data.remove_columns("label")


def make(folder: Path | str, method: str = "fixmatch", model: Any = "convnext", **options: Any) -> Any:
    """A trainer of five steps of 8 labelled images, with random views and a rate that lets a tiny model move."""
    arguments = {"max_steps": 5, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    arguments |= {"lr_scheduler_type": "constant", "report_to": "none", "logging_steps": 1, "save_strategy": "no"}
    arguments |= {"ddp_backend": "gloo" if "WORLD_SIZE" in os.environ else None}
    arguments |= {name: options.pop(name) for name in ARGUMENTS if name in options}
    cls, own = METHODS[method]
    given = {"train_dataset": tiny.images(COUNTS), "unlabeled_dataset": unlabeled()}
    given |= {"weak_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
    return cls(
        tiny.model(model) if isinstance(model, str) else model,
        TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, **arguments),
        **{**given, **own, **options},
    )


def main(folder: Path) -> None:
    for method in ("fixmatch", "mean_teacher"):  # MixMatch mixes within a process
        run = make(folder / method, method, per_device_train_batch_size=4)
        run.train()
        seen = {"weights": tiny.weights(run), "losses": tiny.losses(run)}
        torch.save(seen, folder / f"{method}-{run.args.process_index}.pt")
    torch.distributed.barrier()
    run.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

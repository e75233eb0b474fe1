"""What SelMix costs when the whole network is trained: a step, a refresh, and what a second process gives.

    OMP_NUM_THREADS=1 python -m benchmarks.network
    OMP_NUM_THREADS=1 python -m benchmarks.network --architecture resnet50 --pixels 96 --json network.json

- step: SelMixTrainer with B pairs against stock Trainer on the same 2B images, by turns in one process;
- refresh: one refresh (statistics of the validation set, gain, P) against one bare forward pass over it with the same
  loader, by turns;
- processes: images a second of two processes with one thread each, started by torchrun, against one process with one
  thread, the same global batch.

A timm network with random weights on random images, no evaluation and no checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from benchmarks.gain import hardware
from benchmarks.pairs import best_of
from selmix_hf import SelMixConfig, SelMixTrainer
from selmix_hf.comparison import markdown_table

NUM_CLASSES = 10


class Images(Dataset):
    """Random pixels, the same for all that ask."""

    def __init__(self, num_images: int, pixels: int) -> None:
        self.pixels = torch.randn(64, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(num_images) % NUM_CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index % 64], "labels": int(self.labels[index])}


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.as_tensor([example["labels"] for example in examples]),
    }


def trainer(options: argparse.Namespace, selmix: bool, batch: int) -> Trainer:
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture=options.architecture, num_labels=NUM_CLASSES)
    model = TimmWrapperForImageClassification(config)
    train, gain = Images(1000, options.pixels), Images(options.validation, options.pixels)
    shared: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),
        "max_steps": options.steps,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-4,
        "optim": "sgd",
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "ddp_backend": "gloo" if "WORLD_SIZE" in os.environ and not torch.cuda.is_available() else None,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if not selmix:
        args = TrainingArguments(**shared, remove_unused_columns=False)
        return Trainer(model, args, train_dataset=train, data_collator=collate)
    args = SelMixConfig(
        **shared,
        objective="min_recall",
        refresh_steps=options.steps,
        load_best_model_at_end=False,
        freeze_backbone=False,
    )
    return SelMixTrainer(model, args, train_dataset=train, gain_dataset=gain, data_collator=collate)


def seconds_a_step(run: Trainer) -> float:
    """From the begin of the second to that of the last: without the refresh and whatever else comes before."""
    moments: list[float] = []
    step = run.training_step

    def timed(*args: Any, **kwargs: Any) -> Any:
        moments.append(time.perf_counter())
        return step(*args, **kwargs)

    run.training_step = timed  # type: ignore[method-assign]
    run.train()
    return (moments[-1] - moments[1]) / (len(moments) - 2)


def step(options: argparse.Namespace) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"selmix": [], "stock": []}
    for _ in range(options.repeats):
        seconds["selmix"].append(seconds_a_step(trainer(options, True, options.batch)))
        seconds["stock"].append(seconds_a_step(trainer(options, False, 2 * options.batch)))
    return seconds


def refresh(options: argparse.Namespace) -> dict[str, float]:
    run: Any = trainer(options, True, options.batch)
    run.log = lambda *args, **kwargs: None

    def whole() -> None:
        run.pair_state.period, run._statistics_at = -1, {}
        run.refresh()

    @torch.no_grad()
    def bare() -> None:
        run.model.eval()
        for batch in DataLoader(run.gain_dataset, batch_size=64, collate_fn=collate):
            run.model(pixel_values=batch["pixel_values"].to(run.model.device)).logits.argmax(-1)

    return dict(zip(("refresh", "bare"), best_of(options.repeats, whole, bare), strict=True))


def processes(options: argparse.Namespace) -> dict[str, float]:
    """Images a second."""
    found = {}
    for number in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(number), "--standalone"]
        command += ["-m", "benchmarks.network", *sys.argv[1:], "--worker", str(options.batch // number)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        times = [float(line.split()[1]) for line in output.splitlines() if line.startswith("SECONDS ")]
        found[str(number)] = 2 * options.batch / max(times)
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown: best of the repeats."""
    step = {name: min(seconds) for name, seconds in result["step"].items()}
    pass_, number = result["refresh"], result["processes"]
    rows = [
        ["step, s", f"{step['selmix']:.3f}", f"{step['stock']:.3f}", f"{step['selmix'] / step['stock']:.2f}"],
        ["refresh, s", f"{pass_['refresh']:.3f}", f"{pass_['bare']:.3f}", f"{pass_['refresh'] / pass_['bare']:.2f}"],
        [
            "images a second, 2 processes",
            f"{number['2']:.0f}",
            f"{number['1']:.0f}",
            f"{number['2'] / number['1']:.2f}",
        ],
    ]
    return markdown_table(["", "SelMix", "stock Trainer, a bare pass, 1 process", "ratio"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="pairs; the number of images is twice that")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--validation", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # pairs of one of several processes
    options = parser.parse_args()
    if options.worker:
        run = trainer(options, True, options.worker)
        print("SECONDS", seconds_a_step(run), flush=True)
        return
    result = {
        "hardware": hardware(),
        **{name: getattr(options, name) for name in ("architecture", "pixels", "batch", "steps", "validation")},
        "step": step(options),
        "refresh": refresh(options),
        "processes": processes(options),
    }
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What SelMix costs when the whole network is trained: a step, a refresh, and what a second process gives.

    OMP_NUM_THREADS=1 python -m benchmarks.network
    OMP_NUM_THREADS=1 python -m benchmarks.network --architecture resnet50 --pixels 96 --json network.json

- step: SelMixTrainer with B pairs against stock Trainer on the same 2B images, by turns in one process;
- refresh: one refresh (statistics of the validation set, gain, P) against one bare forward pass over it with the same
  loader, by turns;
- processes: a step of one process with one thread against that of two with one thread each, started by torchrun, the
  same global batch; and against two separate runs at the same time, which is what the machine itself can give.

A timm network with random weights on random images, no evaluation and no checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from benchmarks.gain import hardware
from benchmarks.pairs import by_turns, ratio
from selmix_hf import SelMixConfig, SelMixTrainer
from selmix_hf.reports.tables import markdown_table

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


def trainer(options: argparse.Namespace, selmix: bool, batch: int, **of_selmix: Any) -> Trainer:
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
        "bf16": getattr(options, "bf16", False),
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
        head_start="as_is",
        **of_selmix,
    )
    return SelMixTrainer(model, args, train_dataset=train, gain_dataset=gain, data_collator=collate)


def seconds_a_step(run: Trainer, clock: Callable[[], float] = time.perf_counter) -> float:
    """From the begin of the second to that of the last: without the refresh and whatever else comes before."""
    moments: list[float] = []
    step = run.training_step

    def timed(*args: Any, **kwargs: Any) -> Any:
        if torch.cuda.is_available() and len(moments) in (1, run.args.max_steps - 1):
            torch.cuda.synchronize()  # a GPU still has the steps before to do
        moments.append(clock())
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


def refresh(options: argparse.Namespace) -> dict[str, list[float]]:
    run: Any = trainer(options, True, options.batch)
    run.remove_callback(PrinterCallback)

    def whole() -> None:
        run.pair_state.period = -1
        run.gain_set.forget()
        run.periods.refresh()

    @torch.no_grad()
    def bare() -> None:
        run.model.eval()
        for batch in DataLoader(run.gain_dataset, batch_size=64, collate_fn=collate):
            run.model(pixel_values=batch["pixel_values"].to(run.model.device)).logits.argmax(-1).cpu()

    return dict(zip(("refresh", "bare"), by_turns(options.repeats, whole, bare), strict=True))


def processes(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step of the same global batch: of one process, of two that work together, and of two that know nothing
    of each other, which is what the machine can give."""
    worker = ["-m", "benchmarks.network", *sys.argv[1:], "--worker"]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    half = str(options.batch // 2)
    commands = {
        "one": [[*worker, str(options.batch)]],
        "together": [[*launcher, *worker, half]],
        "apart": [[*worker, half], [*worker, half]],
    }
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeats):
        for name, parts in commands.items():
            running = [
                subprocess.Popen([sys.executable, *part], stdout=subprocess.PIPE, text=True, env=environment)
                for part in parts
            ]
            output = " ".join(process.communicate()[0] for process in running)
            found[name].append(max(map(float, re.findall(r"SECONDS ([0-9.]+)", output))))
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown: the best of the repeats, and ratios with their spread over them."""
    step, look, steps = result["step"], result["refresh"], result["processes"]
    rows = [
        ["step, s: SelMix, stock Trainer", step["selmix"], step["stock"]],
        ["refresh, s: SelMix, a bare pass", look["refresh"], look["bare"]],
        ["step, s: 1 process, 2 processes", steps["one"], steps["together"]],
        ["step, s: 1 process, 2 separate runs of half the batch", steps["one"], steps["apart"]],
    ]
    cells = [[title, f"{min(a):.3f}", f"{min(b):.3f}", ratio(a, b)] for title, a, b in rows]
    return markdown_table(["", "first", "second", "ratio"], cells)


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

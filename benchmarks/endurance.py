"""Whether a long run grows: memory, open files, threads and the time of a refresh, over refreshes and steps.

    python -m benchmarks.endurance                                     # 1,000 refreshes at K = 1,000
    python -m benchmarks.endurance --classes 10 --features 1280 --refresh_steps 100 --refreshes 1000    # 100,000 steps

A head on stored features, so that nothing but the run itself takes time; evaluations and checkpoints at every tenth
refresh, of which two are kept. What grows is the difference between the second tenth of the run and the last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from benchmarks.frozen import drawn_set
from benchmarks.gain import hardware
from benchmarks.on_features import trainer_on_features


class Watch(TrainerCallback):
    """Looks at the process at every refresh.

    Attributes:
        seen: a dictionary each: "refresh_s" (what the refresh took), "cpu_s" (of them on the processor), "rss_mb",
            "files", "threads".
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []
        self._process, self._begun = psutil.Process(), (0.0, 0.0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = time.perf_counter(), time.thread_time()

    def on_refresh(self, trainer: Any) -> None:
        self.seen.append(
            {
                "refresh_s": time.perf_counter() - self._begun[0],
                "cpu_s": time.thread_time() - self._begun[1],
                "rss_mb": self._process.memory_info().rss / 2**20,
                "files": self._process.num_fds(),
                "threads": threading.active_count(),
            }
        )


def watched(options: argparse.Namespace) -> list[dict[str, float]]:
    """What a run showed at its refreshes."""
    K, D = options.classes, options.features
    train, gain = (drawn_set(n * K, D, K, seed) for seed, n in ((0, 4), (1, options.gain_samples)))
    head = torch.zeros(K, D), torch.zeros(K)
    watch, every = Watch(), 10 * options.refresh_steps
    with tempfile.TemporaryDirectory() as folder:
        run = trainer_on_features(
            (train.features, train.labels),
            (gain.features, gain.labels),
            head,
            folder,
            max_steps=options.refreshes * options.refresh_steps,
            refresh_steps=options.refresh_steps,
            objective="mean_recall",
            learning_rate=0.01,
            head_start="as_is",
            confusion="hard",
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=True,
        )
        callbacks = run.callback_handler.callbacks
        callbacks.insert(0, watch)  # before the refresh of the trainer's own
        run.train()
    return watch.seen


def growth(seen: list[dict[str, float]]) -> dict[str, float]:
    """From the second tenth of a run to its last, medians of each: of the memory in MiB, open files and threads the
    difference, and the ratios of the time of a refresh."""
    tenth = len(seen) // 10
    names = ("rss_mb", "files", "threads", "refresh_s", "cpu_s")
    early, late = (
        {name: statistics.median(one[name] for one in part) for name in names}
        for part in (seen[tenth : 2 * tenth], seen[-tenth:])
    )
    found = {name: late[name] - early[name] for name in names[:3]}
    ratios = {"refresh_ratio": late["refresh_s"] / early["refresh_s"], "cpu_ratio": late["cpu_s"] / early["cpu_s"]}
    return {**found, **ratios, "refresh_s": late["refresh_s"]}


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--gain_samples", type=int, default=5, help="of each class in the gain set")
    parser.add_argument("--refreshes", type=int, default=1000)
    parser.add_argument("--refresh_steps", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed()
    begun = time.perf_counter()
    found = growth(watched(options))
    found["seconds"] = time.perf_counter() - begun
    setting = {name: value for name, value in vars(options).items() if name != "json"}
    print(json.dumps({"setting": setting, **{name: round(value, 3) for name, value in found.items()}}))
    if options.json:
        options.json.write_text(json.dumps({"hardware": hardware(), "setting": setting, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

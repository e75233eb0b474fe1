"""One set of defaults for any long tail: SelMix beside retrained heads, from starts that differ in everything.

    SELMIX_REFERENCE_DATA=... python -m benchmarks.natural --seeds 0 1 2 --output_dir natural

The starts are those of `benchmarks.natural_starts`: 10 to 1,000 classes, images and texts; plain, logit-adjusted,
probes and networks from scratch; a few to hundreds of samples a class that steer. Backbones are frozen; every method
sees the same features. SelMix is `SelMixTrainer` with nothing set but the objective. Beside it, from the same start:

- logit-adjusted (tau .5, 1 or 1.5), balanced-softmax (tau 1), class-balanced heads, retrained from zeros at five rates
  a factor of four apart; setting and rate are those that score best on the gain set;
- uniform pairs: SelMixTrainer(pair_sampling="uniform"), otherwise as SelMix, for the first objective;
- SelMix as it was tuned on ten classes: one rate and length, gain from counts, the start's own head, ties not broken.

Results go to output_dir/results/<start>.json as soon as they are there, and are used again; the test set is
looked at once for each. --starts and --objectives choose some; --seeds are those of the draws.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.natural_starts import STARTS, Set, Start, made
from benchmarks.on_features import TEN_CLASSES, trainer_on_features
from selmix_hf import SelMixConfig
from selmix_hf.head_fitting.side_by_side import FittedHead, fit_side_by_side
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.ranking import ranking
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.training.head_start import RATES, mean_squared_norm

OBJECTIVES = ("mean_recall", "worst_share_recall")
MORE = {"texts, plain": ("h_mean", "g_mean", "min_recall")}  # objectives of single starts
KEPT = ("mean_recall", "min_recall", "g_mean", "h_mean", "worst_share_recall", "zero_recall_classes")
DEFAULTS = {"eval_strategy": "epoch", "save_strategy": "best", "load_best_model_at_end": True}
BY_TRAINER: dict[str, dict[str, Any]] = {
    # the first of equal scores wins, as it did: their ties are not broken
    "tuned on ten classes": {**TEN_CLASSES, "max_steps": 2000, "metric_for_best_model": "psi"},
    "uniform pairs": {"pair_sampling": "uniform"},
    "SelMix": {},
}
TAUS = {"balanced-softmax head": (1.0,), "logit-adjusted head": (0.5, 1.0, 1.5)}


def counts_of(weight: torch.Tensor, bias: torch.Tensor, samples: Set) -> torch.Tensor:
    predicted = torch.cat([(part @ weight.T + bias).argmax(1) for part in samples[0].split(4096)])
    return confusion_counts(samples[1], predicted, len(bias))


def report(weight: torch.Tensor, bias: torch.Tensor, test: Set) -> dict[str, float]:
    metrics = classification_metrics(counts_of(weight, bias, test), per_class=False)
    return {name: metrics[name] for name in KEPT}


def standard_error(weight: torch.Tensor, bias: torch.Tensor, test: Set) -> float:
    """Of mean recall, from the number of test samples of each class."""
    counts = counts_of(weight, bias, test).double()
    recall, size = counts.diagonal() / counts.sum(1), counts.sum(1)
    return float((recall * (1 - recall) / size).sum().sqrt() / len(recall))


def retrained(start: Start, seed: int) -> Iterator[tuple[str, list[FittedHead], float]]:
    """Each kind of retrained head: its settings, and the seconds that they took."""
    num_classes = len(start.head[1])
    rates = [rate / mean_squared_norm(start.train[0]) for rate in RATES]
    known: dict[float, tuple[list[FittedHead], float]] = {}
    for name, taus in TAUS.items():
        for tau in [tau for tau in taus if tau not in known]:
            began = time.perf_counter()
            known[tau] = fit_side_by_side(*start.train, num_classes, rates, tau=tau, seed=seed), 0.0
            known[tau] = known[tau][0], time.perf_counter() - began
        yield name, [head for tau in taus for head in known[tau][0]], sum(known[tau][1] for tau in taus)
    began = time.perf_counter()
    heads = fit_side_by_side(*start.train, num_classes, rates, "class_balanced", seed=seed)
    yield "class-balanced head", heads, time.perf_counter() - began


def by_trainer(start: Start, objective: str, seed: int, options: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Report on the test set and seconds of a run of SelMixTrainer."""
    with tempfile.TemporaryDirectory() as folder:
        own = {**DEFAULTS, **options, "objective": objective, "seed": seed}
        trainer = trainer_on_features(start.train, start.gain, start.head, folder, **own)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    weight, bias = trainer.head.weight, torch.as_tensor(trainer.head.bias)
    found = report(weight, bias, start.test)
    found["rate"], found["best_step"] = trainer.args.learning_rate, trainer.state.best_global_step
    found["gain_set"] = report(weight, bias, start.gain)
    return found, seconds


def measure(name: str, start: Start, objectives: Sequence[str], seeds: Sequence[int], path: Path) -> dict[str, Any]:
    """All methods from one start; what the file has already is not made again."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not record:
        parts = {"train": start.train, "gain": start.gain, "test": start.test}
        sizes = {part: torch.bincount(samples[1]) for part, samples in parts.items()}
        record = {
            "start": name,
            "num_classes": len(start.head[1]),
            "samples": {part: [int(n.min()), int(n.max())] for part, n in sizes.items()},
            "before": report(*start.head, start.test),
            "standard_error": 0.0,
            "hardware": hardware(1, True),
            "methods": {},
        }

    def keep(method: str, objective: str, seed: int, found: dict[str, Any], seconds: float) -> None:
        record["methods"].setdefault(method, {}).setdefault(objective, {})[str(seed)] = {**found, "seconds": seconds}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        numbers = " ".join(f"{key} {found[key]:.3f}" for key in ("mean_recall", "worst_share_recall"))
        print(f"{name}: {method}, {objective}, {seed}: {numbers} zeros {found['zero_recall_classes']}", flush=True)

    def missing(method: str, seed: int) -> list[str]:
        return [o for o in objectives if str(seed) not in record["methods"].get(method, {}).get(o, {})]

    for seed in seeds:
        if any(missing(method, seed) for method in (*TAUS, "class-balanced head")):
            for method, heads, seconds in retrained(start, seed):
                of_gain = [counts_of(head.weight, head.bias, start.gain) for head in heads]
                for objective in objectives:
                    aim = SelMixConfig(use_cpu=True, report_to="none", objective=objective).make_objective()
                    best = max(range(len(heads)), key=lambda i: ranking(aim, of_gain[i]))
                    found = report(heads[best].weight, heads[best].bias, start.test)
                    if method == "class-balanced head" and not record["standard_error"]:
                        record["standard_error"] = standard_error(heads[best].weight, heads[best].bias, start.test)
                    keep(method, objective, seed, {**found, "rate": heads[best].learning_rate}, seconds)
        for method, options in BY_TRAINER.items():
            for objective in missing(method, seed):
                if method == "uniform pairs" and objective != objectives[0]:
                    continue  # another objective only chooses another look
                keep(method, objective, seed, *by_trainer(start, objective, seed, options))
    return record


def main(argv: list[str] | None = None) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", default=list(STARTS), metavar="NAME", help="default: all of them")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("natural"))
    given = parser.parse_args(argv)
    unknown = sorted(set(given.starts) - set(STARTS))
    if unknown:
        parser.error(f"--starts: unknown {', '.join(unknown)}; known: {'; '.join(STARTS)}")
    for name in given.starts:
        start = made(name, given.output_dir / "starts")
        path = given.output_dir / "results" / f"{name.replace(', ', '-').replace(' ', '_')}.json"
        more = MORE.get(name, ()) if given.objectives == list(OBJECTIVES) else ()
        measure(name, start, [*given.objectives, *more], given.seeds, path)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    main()

"""What the measures behind the warnings of `selmix_hf.training.health` are in healthy runs and in spoilt ones.

    SELMIX_REFERENCE_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.health --json RECORD.json

Runs of `SelMixTrainer` on stored features of the reference checkpoint, all defaults but for what a row names; on the
features of 1,000 classes of `benchmarks/defaults.py`; and on all weights for the digits of `recipes/quickstart.py`. A
small gain set is one half of the validation set cut to so many samples a class; the held-out change is that of psi on
the other half. The errors are those at the start of a run, the other numbers the extremes over it. The record is of
`--target_share 0.5`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.defaults import cifar10_sets, classifier_sets
from benchmarks.on_features import TEN_CLASSES, Head, Set, trainer_on_features
from selmix_hf import SelMixTrainer
from selmix_hf.data.labels import first_of_each
from selmix_hf.method.confusion import confusion_counts, confusion_matrix
from selmix_hf.reports.metrics import standard_error
from selmix_hf.reports.tables import markdown_table
from selmix_hf.training.health import mean_kept_gain, recall_error, swing

SMOOTH = ("mean_recall", "g_mean", "h_mean", "macro_f1")
MAIN = ("min_recall", "mean_recall", "h_mean")
COVERAGE = {"constraints": {"coverage": 0.95}}


@dataclass(frozen=True)
class Case:
    """A run: its group ("healthy" or what is wrong with it), its objective and what differs from the defaults."""

    group: str
    objective: str
    options: dict[str, Any] = field(default_factory=dict)
    per_class: int | None = None  # samples of a class of the gain set
    seeds: tuple[int, ...] = (0,)


def reference_cases() -> list[Case]:
    healthy = [Case("healthy", name, seeds=(0, 1, 2)) for name in ("min_recall", *SMOOTH, "min_head_tail_recall")]
    healthy += [Case("healthy", name, COVERAGE, seeds=(0, 1, 2)) for name in ("mean_recall", "min_recall")]
    spoilt = [
        Case(f"{name} {value:g}", objective, {name: value})
        for name, values in (("learning_rate", (0.1, 1.0)), ("refresh_steps", (50, 500)))
        for value in values
        for objective in MAIN
    ]
    spoilt += [Case("inverse_temperature 1e6", objective, {"inverse_temperature": "1e6"}) for objective in MAIN]
    small = [
        Case(f"{number} a class", objective, options, number, (0, 1))
        for number in (5, 10, 20, 50, 200)
        for objective, options in (*((name, {}) for name in MAIN), ("mean_recall", COVERAGE))
    ]
    return healthy + spoilt + small


def cut(part: Set, per_class: int, seed: int) -> Set:
    """So many samples of each class."""
    order = torch.randperm(len(part[1]), generator=torch.Generator().manual_seed(seed))
    rows = first_of_each(order.numpy(), part[1].numpy(), [per_class] * (int(part[1].max()) + 1))
    return part[0][rows], part[1][rows]


def measures(trainer: SelMixTrainer) -> dict[str, Any]:
    """Of a finished run, from its log."""
    logs = [log for log in trainer.state.log_history if "gain_set_psi" in log]
    swings = [value for t in range(len(logs)) if (value := swing(logs[: t + 1])) is not None]
    kept = [value for t in range(len(logs)) if (value := mean_kept_gain(logs[: t + 1])) is not None]
    counts, objective = trainer.pair_state.start_counts, trainer.objective
    slack = [
        standard_error(lambda matrix, of=constraint: of.slack(matrix).min(), counts, objective.class_prior)
        for constraint in objective.constraints
    ]
    reach = trainer.args.learning_rate * max(trainer.args.max_steps, 2000)  # as the trainer has it
    return {
        "swing": max(swings, default=None),
        "kept_gain": min(kept, default=None),
        "stale_share": max(log.get("stale_share", 0.0) for log in logs),
        "recall_error": recall_error(counts),
        "slack_error": max(slack, default=None),
        "reach": min(log["largest_gain"] for log in logs) * reach,
        "psi": [logs[0]["gain_set_psi"], max(log["gain_set_psi"] for log in logs)],
        "warnings": sorted(trainer.health.said),
    }


def run_on_features(
    train: Set, gain: Set, head: Head, case: Case, held_out: Set | None, target_share: float | None = None
) -> list[dict[str, Any]]:
    results = []
    for seed in case.seeds:
        part = gain if case.per_class is None else cut(gain, case.per_class, seed)
        options = {"objective": case.objective, "seed": seed, "target_share": target_share, **case.options}
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_on_features(train, part, head, folder, **TEN_CLASSES | options)
            trainer.train()
        results.append(measures(trainer))
        if held_out is not None:
            ends = [head, (trainer.model.classifier.weight.detach(), trainer.model.classifier.bias.detach())]
            results[-1]["held_out"] = [psi_of(trainer, end, held_out) for end in ends]
    return results


def psi_of(trainer: SelMixTrainer, head: Head, part: Set) -> float:
    counts = confusion_counts(part[1], part[0] @ head[0].T + head[1], len(head[1]))
    return float(trainer.objective.value(confusion_matrix(counts, trainer.objective.class_prior)))


def digits(seed: int, target_share: float | None) -> dict[str, Any]:
    """The run of the quickstart, all weights from its own stage 1."""
    from recipes import quickstart as q

    splits = q.long_tailed_digits(seed)
    config = q.TimmWrapperConfig(architecture=q.ARCHITECTURE, pretrained_cfg=q.PIXELS, num_labels=10)
    with tempfile.TemporaryDirectory() as folder:
        options = {"output_dir": folder, "seed": seed}
        q.set_seed(seed)
        model = q.TimmWrapperForImageClassification(config)
        q.stage1_trainer(model, splits, max_steps=800, **options).train()
        trainer = q.selmix_trainer(model, splits, max_steps=300, target_share=target_share, **options)
        trainer.train()
    return measures(trainer)


def measure(target_share: float | None) -> list[dict[str, Any]]:
    root = Path(os.environ["SELMIX_REFERENCE_DATA"])
    on_features = partial(run_on_features, target_share=target_share)
    rows: list[dict[str, Any]] = []

    def row(data: str, case: Case, results: list[dict[str, Any]]) -> None:
        objective = "_".join([case.objective, *case.options.get("constraints", {})])
        rows.append({"data": data, "group": case.group, "objective": objective, "results": results})
        print(table(rows[-1:]).splitlines()[-1], flush=True)

    for objective in ("min_recall", "mean_recall"):
        case = Case("healthy, K = 1000", objective, {"learning_rate": 0.3, "refresh_steps": 50, "max_steps": 1000})
        if objective == "min_recall":
            train, ((gain, _),), head = classifier_sets(root)
        row("classifier", case, on_features(train, gain, head, case, None))
    case = Case("healthy, digits, all weights", "min_recall", seeds=(0, 1))
    row("digits", case, [digits(seed, target_share) for seed in case.seeds])
    train, halves, head = cifar10_sets(root, None)
    whole = tuple(torch.cat([first, second]) for first, second in zip(*halves[0], strict=True))
    for case in reference_cases():
        gain, held_out = (whole, None) if case.per_class is None else halves[0]
        row("reference", case, on_features(train, gain, head, case, held_out))
    saturated = (head[0] * 1000, head[1] * 1000)
    for objective in MAIN:
        case = Case("head saturated (weights x 1000)", objective)
        row("reference", case, on_features(train, whole, saturated, case, None))
    noise = [
        (torch.randn(part[0].shape, generator=torch.Generator().manual_seed(1)), part[1]) for part in (train, whole)
    ]
    case = Case("features are noise", "mean_recall")
    row("reference", case, on_features(*noise, (head[0] * 0, head[1] * 0), case, None))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the worst of the seeds in each column."""
    columns: dict[str, tuple[str, Callable[[list[float]], float], str]] = {
        "swing, errors": ("swing", max, ".2f"),
        "kept gain": ("kept_gain", min, ".2f"),
        "stale share": ("stale_share", max, ".2f"),
        "recall error": ("recall_error", max, ".2f"),
        "slack error": ("slack_error", max, ".2f"),
        "reach": ("reach", min, ".3f"),
    }
    cells = []
    for row in rows:
        results, numbers = row["results"], []
        for key, worst, form in columns.values():
            values = [result[key] for result in results if result[key] is not None]
            numbers.append(format(worst(values), form) if values else "")
        changes = [result["held_out"][1] - result["held_out"][0] for result in results if "held_out" in result]
        held_out = f"{sum(changes) / len(changes):+.3f}".replace("-", "−") if changes else ""
        often = Counter(name for result in results for name in result["warnings"])
        said = [
            name if often[name] == len(results) else f"{name} ({often[name]} of {len(results)})"
            for name in sorted(often)
        ]
        cells.append([row["group"], row["objective"], *numbers, held_out, ", ".join(said)])
    return markdown_table(["run", "objective", *columns, "held-out change", "warned of"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target_share", type=float, help="of SelMixConfig; default its own")
    parser.add_argument("--json", type=Path, help="also write the record here")
    options = parser.parse_args()
    rows = measure(options.target_share)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

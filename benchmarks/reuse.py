"""What `reuse_samples` saves, and what it does to the metric, on the reference start.

    SELMIX_REFERENCE_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.reuse --with_reuse RESULTS.json --json reuse.json

SelMixTrainer with the settings of recipes/configs/cifar10_lt_whole_network.yaml, with and without reuse, by turns in
one process: seconds a step (the refresh before it left out) and images that pass the network in a step. The metric is
that of two runs of the recipe over the same seeds: the card's (without), and RESULTS.json, written by the recipe's
command with `--reuse_samples true`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict

from benchmarks.gain import hardware
from benchmarks.network import seconds_a_step
from benchmarks.pairs import ratio
from selmix_hf import LongTailedSplit, SelMixConfig, SelMixTrainer
from selmix_hf.data.labels import class_labels
from selmix_hf.data.views import CropAndFlip
from selmix_hf.models.loading import load_classifier, load_images
from selmix_hf.reports.registry import metric_title
from selmix_hf.reports.tables import markdown_table, mean_and_sd

METRICS = ("min_recall", "mean_recall")
CARD = Path(__file__).parents[1] / "model_cards" / "cifar10-lt-min-recall-whole-network" / "results.json"


def trainer(root: Path, splits: DatasetDict, reuse: bool, steps: int) -> SelMixTrainer:
    """One period of the whole-network recipe."""
    names = splits["train"].features["label"].names
    model, processor = load_classifier(str(root / "checkpoints" / "cifar10-lt-r100-tf_efficientnet_lite0"), names)
    args = SelMixConfig(
        "reuse_benchmark",
        objective="min_recall",
        head_start="as_is",
        learning_rate=0.003,
        backbone_learning_rate=0.0003,
        per_device_train_batch_size=48,
        max_steps=steps,
        refresh_steps=steps,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        reuse_samples=reuse,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    return SelMixTrainer(
        model.to(memory_format=torch.channels_last),
        args,
        train_dataset=splits["train"],
        gain_dataset=splits["validation"],
        train_transform=CropAndFlip(processor, 32),
        processing_class=processor,
    )


def speed(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    root = Path(os.environ["SELMIX_REFERENCE_DATA"])
    split = LongTailedSplit.load(root / "checkpoints" / "cifar10-lt-r100-tf_efficientnet_lite0" / "split.json")
    splits = split.apply(load_images(str(root / "data" / "cifar10"))["train"])
    chosen = [row for k in range(10) for row in (class_labels(splits["validation"]) == k).nonzero()[0][:50]]
    splits["validation"] = splits["validation"].select(chosen)  # the refresh is not timed
    found: dict[str, dict[str, list[float]]] = {"with": {}, "without": {}}
    for _ in range(options.repeats):
        for name, own in found.items():
            run, images = trainer(root, splits, name == "with", options.steps), []
            step = run.training_step

            def counted(model: Any, inputs: Any, *args: Any, step=step, images=images) -> Any:
                images.append(len(inputs["pixel_values"]))
                return step(model, inputs, *args)

            run.training_step = counted  # type: ignore[method-assign]
            own.setdefault("seconds", []).append(seconds_a_step(run))
            own.setdefault("images", []).append(sum(images) / len(images))
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown: one row without and one with reuse."""
    rows = []
    for name in ("without", "with"):
        own, plain = result["speed"][name], result["speed"]["without"]
        metrics = [mean_and_sd(result["metric"][name][metric]) for metric in METRICS]
        images = sum(own["images"]) / len(own["images"])
        rows.append(
            [name, f"{images:.0f}", f"{min(own['seconds']):.2f}", ratio(own["seconds"], plain["seconds"]), *metrics]
        )
    return markdown_table(["reuse", "images a step", "s a step", "of without", *map(metric_title, METRICS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--with_reuse", type=Path, required=True, help="results.json of the recipe with reuse")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    paths = {"without": CARD, "with": options.with_reuse}
    runs = {name: json.loads(path.read_text(encoding="utf-8"))["runs"] for name, path in paths.items()}
    metric = {
        name: {metric: [run["test_after"][metric] for run in own] for metric in METRICS} for name, own in runs.items()
    }
    result = {"hardware": hardware(), "speed": speed(options), "metric": metric}
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""One option at a time, the others at their defaults: SelMix on stored features.

    python benchmarks/defaults.py reference target_share=0.1,0.3,0.5 min_memory=0,0.8    # K = 10, real features
    python benchmarks/defaults.py classifier target_share=0.01,0.1,0.5                   # K = 1000

Both need SELMIX_REFERENCE_DATA. Options: target_share, learning_rate, refresh_steps, min_rate, min_memory, beta_min,
constraint_rate (with `--coverage 0.95`). Figures are of samples that neither train nor steer: with K = 10 one half of
the validation set steers and the other is measured, then the halves change places; the test set is not touched.
K = 1000: the rows of an ImageNet classifier, projected on 256 directions, are the class means; Gaussian noise around
them gives a long-tailed training set (1,280 to 5 a class), 20 samples a class that steer and 50 that are measured; the
start is a head trained with the logit-adjusted loss. Real class similarities, but no substitute for real features.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selmix_hf.config import SelMixConfig
from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.method.confusion import confusion_counts
from selmix_hf.method.draws import ClassIndex, draw_class_pairs
from selmix_hf.method.gain import gain_matrix, metric_gradient
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.reports.tables import markdown_table

Set = tuple[Tensor, Tensor]  # features N x D, labels N
Head = tuple[Tensor, Tensor]
COLUMNS = ("mean_recall", "min_recall", "h_mean", "smallest_coverage", "worst_tenth")


@dataclass(frozen=True)
class Options:
    """Defaults of `SelMixConfig` for a frozen backbone, except where the data need others."""

    target_share: float = 0.5
    learning_rate: float = 0.01
    max_steps: int = 2000
    refresh_steps: int = 10
    min_rate: float = SelMixConfig.min_rate
    min_memory: float = SelMixConfig.min_memory
    constraint_rate: float = SelMixConfig.constraint_rate
    beta_min: float = SelMixConfig.beta_min
    gain_quadrature: bool = False  # the gain's expectation over beta instead of the gain at its mean
    average: float = 0.0  # of the heads of so large a last part of the steps; 0: the last head
    class_bias: bool = False  # at the end, chosen on the samples that steer


def selmix_on_features(
    train: Set, gain_set: Set, head: Head, objective: str, coverage: float | None, options: Options, seed: int
) -> Head:
    """The loop that SelMixTrainer runs with a frozen backbone: 64 pairs a step, cosine."""
    weight, bias = (tensor.clone().requires_grad_() for tensor in head)
    num_classes, generator = len(bias), np.random.default_rng(seed)
    index = ClassIndex(train[1], num_classes)
    psi = get_objective(
        objective,
        None if coverage is None else {"coverage": coverage},
        min_rate=options.min_rate,
        min_memory=options.min_memory,
        constraint_rate=options.constraint_rate,
    )
    multipliers: dict[str, Tensor] = {}
    members = F.one_hot(gain_set[1], num_classes).T.float()
    centroids = (members @ gain_set[0]) / members.sum(1, keepdim=True)
    optimizer = torch.optim.SGD([weight, bias], lr=options.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.max_steps)
    low = options.beta_min
    beta_of_gain = (low, 1.0) if options.gain_quadrature else (low + 1) / 2
    sums, num_averaged, step = [torch.zeros_like(tensor) for tensor in head], 0, 0
    for _ in range(options.max_steps // options.refresh_steps):
        with torch.no_grad():
            counts = confusion_counts(gain_set[1], gain_set[0] @ weight.T + bias, num_classes)
            multipliers = psi.update_multipliers(multipliers, counts)
            gradient = metric_gradient(psi, counts, multipliers=multipliers)
            gain = gain_matrix(centroids, weight, bias, gradient, beta_of_gain)
            probability = pair_distribution(gain, target_share=options.target_share).probability
        classes = draw_class_pairs(probability, options.refresh_steps * 64, generator)
        first, second = (index.draw(classes[:, side], generator) for side in (0, 1))
        beta = torch.from_numpy(generator.uniform(options.beta_min, 1, len(first))).float()[:, None]
        mixed = (beta * train[0][first] + (1 - beta) * train[0][second]).split(64)
        for features, labels in zip(mixed, train[1][first].split(64), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(features @ weight.T + bias, labels).backward()
            optimizer.step()
            scheduler.step()
            step += 1
            if options.average and step > (1 - options.average) * options.max_steps:
                num_averaged += 1
                for total, tensor in zip(sums, (weight, bias), strict=True):
                    total += tensor.detach()
    weight, bias = (total / num_averaged for total in sums) if num_averaged else (weight.detach(), bias.detach())
    if options.class_bias:
        bias = bias + tune_class_bias(gain_set[0] @ weight.T + bias, gain_set[1], psi)
    return weight, bias


def report(head: Head, held_out: Set) -> dict[str, float]:
    counts = confusion_counts(held_out[1], held_out[0] @ head[0].T + head[1], len(head[1]))
    recall = (counts.diagonal() / counts.sum(1)).sort().values
    metrics = classification_metrics(counts, per_class=False)
    worst_tenth = float(recall[: max(len(recall) // 10, 1)].mean())
    return {name: metrics[name] for name in COLUMNS[:-1]} | {"worst_tenth": worst_tenth}


def cifar10_sets(root: Path, start: Path | None, halvings: int = 2) -> tuple[Set, list[tuple[Set, Set]], Head]:
    """Features of the reference checkpoint (or another start), and both ways round of the halves of its validation
    set, halved so many times."""
    from datasets import Dataset
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from selmix_hf.data.collators import ImageCollator
    from selmix_hf.data.labels import class_labels
    from selmix_hf.data.split import LongTailedSplit
    from selmix_hf.features.dataset_pass import DatasetPass
    from selmix_hf.models.head_search import find_head

    reference = root / "checkpoints" / "cifar10-lt-r100-tf_efficientnet_lite0"
    folder = reference if start is None else start
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False).to(
        memory_format=torch.channels_last
    )
    collator = ImageCollator(AutoImageProcessor.from_pretrained(folder, trust_remote_code=False), image_column="img")
    rows = Dataset.from_parquet(str(root / "data" / "cifar10" / "train.parquet"))
    splits = LongTailedSplit.load(reference / "split.json").apply(rows)
    head = find_head(model, {"pixel_values": collator([rows[0], rows[1]])["pixel_values"]})
    look = DatasetPass(model, head, batch_size=128)
    (train, validation) = (
        (look.features(splits[name], collator), torch.from_numpy(class_labels(splits[name])))
        for name in ("train", "validation")
    )
    halves = []
    for seed in range(halvings):
        order = torch.randperm(len(validation[1]), generator=torch.Generator().manual_seed(seed))
        order = order[validation[1][order].argsort(stable=True)]
        parts = [(validation[0][order[k::2]], validation[1][order[k::2]]) for k in (0, 1)]
        halves += [(parts[0], parts[1]), (parts[1], parts[0])]
    return train, halves, (head.weight, torch.as_tensor(head.bias))


def classifier_sets(root: Path) -> tuple[Set, list[tuple[Set, Set]], Head]:
    """K = 1000: see the module's docstring."""
    from safetensors.torch import load_file

    tensors = load_file(root / "checkpoints" / "imagenet1k-tf_efficientnet_lite0" / "model.safetensors")
    rows = tensors["timm_model.classifier.weight"].float()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # of pca_lowrank
    rows = rows - rows.mean(0)
    means = rows @ torch.pca_lowrank(rows, q=256)[2]
    means /= means.norm(dim=1).mean()
    num_classes = len(means)
    train_counts = (1280 * 256 ** (-torch.arange(num_classes) / (num_classes - 1))).long()
    train_counts = train_counts[torch.randperm(num_classes, generator=generator)]

    def draw(counts: Tensor) -> Set:
        labels = torch.repeat_interleave(torch.arange(num_classes), counts)
        return means[labels] + 0.14 * torch.randn(len(labels), 256, generator=generator), labels

    train = draw(train_counts)
    sets = [(draw(torch.full((num_classes,), 20)), draw(torch.full((num_classes,), 50)))]
    weight, bias = torch.zeros(num_classes, 256, requires_grad=True), torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=20, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    shift = (train_counts / train_counts.sum()).log()
    for _ in range(1500):
        batch = torch.randint(len(train[1]), (256,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(train[0][batch] @ weight.T + bias + shift, train[1][batch]).backward()
        optimizer.step()
        scheduler.step()
    return train, sets, (weight.detach(), bias.detach())


def sweep(text: str) -> list[tuple[str, float]]:
    """The text min_rate=10,20 -> [("min_rate", 10.0), ("min_rate", 20.0)]."""
    name, _, values = text.partition("=")
    if name not in Options.__dataclass_fields__ or not values:
        expected = ", ".join(Options.__dataclass_fields__)
        raise argparse.ArgumentTypeError(f"expected option=value,value with an option of {expected}; found {text!r}")
    kind = type(getattr(Options, name))
    return [(name, kind(float(value))) for value in values.split(",")]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over the draws."""
    cells = []
    for row in rows:
        of_draws = [[result[column] for result in row["results"]] for column in COLUMNS]
        spread = [f" ± {np.std(values):.3f}" if len(values) > 1 else "" for values in of_draws]
        numbers = [f"{np.mean(values):.3f}{sd}" for values, sd in zip(of_draws, spread, strict=True)]
        cells.append([row["objective"], row["option"], f"{row['value']}", *numbers])
    return markdown_table(["objective", "option", "value", *(name.replace("_", " ") for name in COLUMNS)], cells)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("reference", "classifier"))
    parser.add_argument("sweeps", nargs="+", type=sweep, metavar="option=value,value")
    parser.add_argument("--objectives", nargs="+", default=["min_recall"])
    parser.add_argument("--coverage", type=float, help="constrain every class's share of the predictions")
    parser.add_argument("--start", type=Path, help="with reference: a folder of benchmarks.starts in its place")
    parser.add_argument("--json", type=Path, help="write the rows here")
    given = parser.parse_args(argv)
    root = Path(os.environ["SELMIX_REFERENCE_DATA"])
    if given.start is not None and given.data != "reference":
        parser.error("--start takes the place of the reference checkpoint")
    train, sets, head = cifar10_sets(root, given.start) if given.data == "reference" else classifier_sets(root)
    own = {} if given.data == "reference" else {"learning_rate": 0.3, "max_steps": 1000, "refresh_steps": 50}
    rows: list[dict[str, Any]] = []

    def row(objective: str, option: str, value: float | str, results: list[dict[str, float]]) -> None:
        rows.append({"objective": objective, "option": option, "value": value, "results": results})
        print(table(rows[-1:]).splitlines()[-1], flush=True)

    row("start", "", "", [report(head, held_out) for _, held_out in sets])
    for objective in given.objectives:
        for option, value in (pair for of_one in given.sweeps for pair in of_one):
            options = Options(**own | {option: value})
            results = [
                report(selmix_on_features(train, steers, head, objective, given.coverage, options, seed), held_out)
                for seed, (steers, held_out) in enumerate(sets)
            ]
            row(objective, option, value, results)
    print(f"\n{table(rows)}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

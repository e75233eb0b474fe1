"""Fine-tune any checkpoint for CIFAR-10-LT's worst class, mean recall, H-mean or coverage.

    accelerate launch recipes/cifar10_lt.py --config recipes/configs/cifar10_lt_min_recall.yaml \\
        --model_name_or_path <checkpoint trained on CIFAR-10-LT: Hub id or folder> --dataset uoft-cs/cifar10

Every option of SelMixConfig works, in the YAML file or on the command line: `--objective h_mean --max_steps 500`. The
data come from the Hub or from a folder with train.parquet and test.parquet. They are made long-tailed here, or by a
saved split (`--split split.json`): the checkpoint must not have seen the validation images, so give the split that it
was trained on. The validation images steer SelMix and choose the checkpoint; the test images are looked at once before
and once after. `--seeds 0 1 2` repeats the run and adds the spread.

Into output_dir go the model (ready for `pipeline`), the plots, split.json and results.json.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import DatasetDict, Image

from selmix_hf import SelMixConfig, SelMixTrainer, __version__, classification_metrics, confusion_counts, save_plots
from selmix_hf.arguments import parse_arguments
from selmix_hf.callbacks import ProgressLines
from selmix_hf.comparison import before_after_table, paired_bootstrap
from selmix_hf.labels import class_labels, infer_label_column
from selmix_hf.loading import load_classifier, load_images
from selmix_hf.long_tail import LongTailedSplit, make_long_tailed


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "Start: a Hub id, or a folder with config.json and weights."})
    dataset: str = field(metadata={"help": "A Hub id, or a folder with train.parquet and test.parquet."})
    split: str | None = field(default=None, metadata={"help": "JSON of a split; default: draw one."})
    imbalance_factor: float = field(default=100, metadata={"help": "n_max / n_min of a drawn split."})
    max_per_class: int | None = field(default=None, metadata={"help": "n_max of a drawn split; default: most."})
    validation_per_class: int = field(default=500, metadata={"help": "Set aside in a drawn split."})
    split_seed: int = field(default=0, metadata={"help": "Of a drawn split."})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels; default: the checkpoint's."})
    augment: bool = field(default=False, metadata={"help": "Random crop and flip; when frozen, see feature_views."})
    channels_last: bool = field(default=False, metadata={"help": "Memory format; faster for many CNNs, even on CPU."})
    seeds: list[int] = field(default_factory=list, metadata={"help": "Repeat with these; default: --seed."})


class CropAndFlip:
    """A random crop of the padded image and a random flip, then whatever the checkpoint's own processor does."""

    def __init__(self, processor: Any, side: int) -> None:
        from torchvision.transforms import v2

        self.processor = processor
        self.augment = v2.Compose([v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()])

    def __call__(self, image: Any) -> torch.Tensor:
        return self.processor(self.augment(image), return_tensors="pt")["pixel_values"][0]


def split_images(arguments: Arguments, dataset: DatasetDict, save_to: Path) -> tuple[DatasetDict, str]:
    """Splits "train" (long-tailed), "validation" and "test", and the digest of the first two."""
    if arguments.split is None:
        splits = make_long_tailed(
            dataset["train"],
            imbalance_factor=arguments.imbalance_factor,
            max_per_class=arguments.max_per_class,
            validation_per_class=arguments.validation_per_class,
            seed=arguments.split_seed,
            save_to=save_to,
        )
        return DatasetDict(**splits, test=dataset["test"]), LongTailedSplit.load(save_to).digest
    if not Path(arguments.split).is_file():
        raise FileNotFoundError(f"--split: there is no file {arguments.split!r} (looked in {Path.cwd()}).")
    split = LongTailedSplit.load(arguments.split)
    splits = split.apply(dataset["train"])
    if "validation" not in splits:
        raise ValueError(f"--split: {arguments.split} has no validation images, which SelMix is steered by.")
    split.save(save_to)
    return DatasetDict(**splits, test=dataset["test"]), split.digest


def fine_tune(arguments: Arguments, config: SelMixConfig, splits: DatasetDict, names: list[str]) -> SelMixTrainer:
    """A trainer that starts at the checkpoint."""
    model, processor = load_classifier(arguments.model_name_or_path, names, arguments.image_size)
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    image_column = next(name for name, kind in splits["train"].features.items() if isinstance(kind, Image))
    side = min(splits["train"][0][image_column].size)
    trainer = SelMixTrainer(
        model=model,
        args=config,
        train_dataset=splits["train"],
        gain_dataset=splits["validation"],
        eval_dataset=splits["validation"],  # chooses the checkpoint
        train_transform=CropAndFlip(processor, side) if arguments.augment else None,
        processing_class=processor,
    )
    ProgressLines.replace_logs_of(trainer, every=max(1, config.max_steps // config.refresh_steps // 20))
    return trainer


def predict(trainer: SelMixTrainer, dataset: Any) -> np.ndarray:
    """Predicted classes, shape N."""
    return trainer.predict(dataset).predictions.argmax(-1)


def validation_reports(trainer: SelMixTrainer) -> dict[str, Any]:
    """What the looks at the validation images gave: at the start, and for the weights that were kept."""
    looks = {log["step"]: log for log in trainer.state.log_history if "eval_min_recall" in log}
    kept = trainer.state.best_global_step if trainer.args.load_best_model_at_end else trainer.state.global_step
    return {"kept_step": kept, "validation_before": looks.get(0), "validation_after": looks.get(kept)}


def settings_of(config: SelMixConfig) -> dict[str, Any]:
    """SelMix's own options, and those of TrainingArguments that were set."""
    default = SelMixConfig(config.output_dir).to_dict()
    own = SelMixConfig.__annotations__
    return {name: value for name, value in config.to_dict().items() if name in own or value != default[name]}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:  # what can be wrong is found before any expensive work
        arguments, config = parse_arguments((Arguments, SelMixConfig), argv)
        folder = Path(config.output_dir)
        splits, digest = split_images(arguments, load_images(arguments.dataset), folder / "split.json")
        labels, train_labels = class_labels(splits["test"]), class_labels(splits["train"])
        feature = splits["train"].features[infer_label_column(splits["train"])]
        names = getattr(feature, "names", None) or [str(k) for k in range(train_labels.max() + 1)]
        seeds = arguments.seeds or [config.seed]
        configs = [copy.copy(config) for _ in seeds]
        for own, seed in zip(configs, seeds, strict=True):
            own.seed, own.output_dir = seed, str(folder / f"seed_{seed}" if len(seeds) > 1 else folder)
        trainer = fine_tune(arguments, configs[0], splits, names)
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"cifar10_lt.py: {error}") from error

    is_main = trainer.is_world_process_zero()
    if is_main:
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in splits.items())
        print(f"{sizes} images, split {digest[:12]}. Looking at the test images for the start ...", flush=True)

    def report(predicted: np.ndarray) -> dict[str, Any]:
        counts = confusion_counts(torch.as_tensor(labels), torch.as_tensor(predicted), len(names))
        return classification_metrics(counts, train_counts=np.bincount(train_labels), class_names=names)

    start = predict(trainer, splits["test"])
    before, runs, predictions = report(start), [], []
    for own in configs:
        trainer = trainer if own is configs[0] else fine_tune(arguments, own, splits, names)
        if is_main:
            first = "features of the training and validation images once, then " if config.freeze_backbone else ""
            print(f"Seed {own.seed}, {config.objective}: {first}{config.max_steps} steps", flush=True)
        began = time.perf_counter()
        trainer.train()
        seconds = round(time.perf_counter() - began, 1)
        trainer.save_model()
        predictions.append(predict(trainer, splits["test"]))
        runs.append({"seed": own.seed, "seconds": seconds, **validation_reports(trainer)})
        runs[-1] |= {"test_before": before, "test_after": report(predictions[-1])}
        if is_main:
            counts = [
                confusion_counts(torch.as_tensor(labels), torch.as_tensor(p), len(names))
                for p in (start, predictions[-1])
            ]
            save_plots(trainer, Path(own.output_dir) / "plots", *counts, set_name="the test set")

    intervals = paired_bootstrap(labels, [start] * len(runs), predictions, len(names))
    results = {
        "settings": {**vars(arguments), **settings_of(config)},
        "versions": {"selmix_hf": __version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "split_digest": digest,
        "train_counts": np.bincount(train_labels).tolist(),
        "runs": runs,
        "change_and_interval": intervals,
    }
    if is_main:
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nOn the {len(labels):,} test images, seeds {', '.join(map(str, seeds))}:\n")
        print(before_after_table([before] * len(runs), [run["test_after"] for run in runs], intervals, per_class=True))
        print(f"\nModel, plots and numbers are in {folder}/.")
    return results


if __name__ == "__main__":
    main()

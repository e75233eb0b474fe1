"""Raise the recall of a small classifier's worst class in a minute or two: real images, no network.

    accelerate launch recipes/quickstart.py
    accelerate launch recipes/quickstart.py --seeds 0 1 2 3 4     # beside two rivals, as Markdown and JSON

The handwritten digits of scikit-learn are made long-tailed: 60 images of "0" down to 1 of "9". Stage 1 trains a small
timm network from random weights with transformers' own Trainer and the logit-adjusted loss, until it stops improving.
Stage 2 is SelMixTrainer, on all weights. Half of the other images are the validation set, half the test. The rivals
take as many steps as SelMix, of as many images, look at the validation set as often, and may keep the start as well.

Settings were chosen on seeds 10 to 19. Measured over seeds 0 to 4, one core of an Intel Xeon:
model_cards/digits-min-recall.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from selmix_hf import LogitAdjustedLoss, SelMixConfig, SelMixTrainer, make_long_tailed, save_plots
from selmix_hf.data.collators import ImageCollator
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.metrics import classification_metrics, counts_of, make_compute_metrics
from selmix_hf.reports.tables import before_after_table, interval_note, seeds_table
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.record import command_of, run_report, settings_of, versions
from selmix_hf.studies.results import Results, RunResults
from selmix_hf.training.progress_lines import ProgressLines

ARCHITECTURE = "test_resnet"  # 0.4 million weights
CLASSES = [str(digit) for digit in range(10)]
LOOK = 10  # steps of stage 2 between two looks at the validation set
PIXELS = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
SHARED = {
    "per_device_eval_batch_size": 100,
    "remove_unused_columns": False,
    "save_total_limit": 1,
    "save_only_model": True,
    "disable_tqdm": True,
    "dataloader_pin_memory": torch.cuda.is_available(),
}
if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.accelerator.is_available():
    SHARED |= {"use_cpu": True, "ddp_backend": "gloo"}  # or the processes would not know of each other
PROCESSOR = TimmWrapperImageProcessor(PIXELS, ARCHITECTURE)


@dataclass
class Arguments:
    objective: str = field(default="min_recall", metadata={"help": "The metric that SelMix optimises."})
    output_dir: str = field(default="quickstart_output", metadata={"help": "Folder for the model, plots and numbers."})
    seed: int = field(default=0, metadata={"help": "Seed of the split, the weights and the draws."})
    seeds: list[int] = field(
        default_factory=list,
        metadata={"help": "Seeds for a comparison with two other methods, instead of one run with --seed."},
    )
    stage1_steps: int = field(
        default=800, metadata={"help": "Most optimizer steps of stage 1, which trains the network before SelMix does."}
    )
    steps: int = field(
        default=300, metadata={"help": "Optimizer steps of SelMix, and of each method it is compared with."}
    )

    def __post_init__(self) -> None:
        for name in ("stage1_steps", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if len(set(self.seeds)) < len(self.seeds) or not all(0 <= seed < 2**32 for seed in (self.seed, *self.seeds)):
            raise ValueError(f"seeds must differ and lie between 0 and 2**32 - 1, found {self.seeds or self.seed}.")


def all_digits() -> Dataset:
    """The 1,797 images of scikit-learn, 8 x 8 pixels, with their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    columns = {"image": [np.uint8(image * 255 / 16) for image in digits.images], "label": digits.target}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=CLASSES)}))


def long_tailed_digits(seed: int) -> DatasetDict:
    """Splits "train" (long-tailed), "validation" and "test": half each of what is left, 57 to 91 images a class."""
    digits = all_digits()
    digits = digits.add_column("row", range(len(digits)))
    train = make_long_tailed(digits, imbalance_factor=60, max_per_class=60, seed=seed)["train"]
    rest = digits.select(sorted(set(digits["row"]) - set(train["row"])))
    halves = rest.train_test_split(0.5, stratify_by_column="label", seed=seed)
    splits = DatasetDict(train=train, validation=halves["train"], test=halves["test"])
    return splits.remove_columns("row")


def distorted(dataset: Dataset) -> Dataset:
    """The same images, slightly rotated, shifted, scaled and sheared whenever they are read."""
    from torchvision.transforms import v2

    distort = v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), shear=8)
    return dataset.with_transform(lambda rows: {**rows, "image": [distort(i.resize((32, 32))) for i in rows["image"]]})


def stage1_trainer(model: Any, splits: DatasetDict, metric: str = "mean_recall", **options: Any) -> Trainer:
    """Plain Trainer with the logit-adjusted loss; it ends with the weights that are best by a metric on validation.
    The learning rate falls to .3 of itself where the metric has not risen for more than 50 steps."""
    eval_steps = min(options.pop("eval_steps", 25), options["max_steps"])
    trainer = Trainer(
        model,
        TrainingArguments(
            per_device_train_batch_size=64,
            learning_rate=1e-3,
            lr_scheduler_type="reduce_lr_on_plateau",
            lr_scheduler_kwargs={"mode": "max", "factor": 0.3, "patience": 50 // eval_steps},
            eval_strategy="steps",
            eval_steps=eval_steps,
            save_strategy="best",
            load_best_model_at_end=True,
            metric_for_best_model=metric,
            **SHARED,
            **options,
        ),
        train_dataset=distorted(splits["train"]),
        eval_dataset=splits["validation"],
        data_collator=ImageCollator(PROCESSOR),
        compute_loss_func=LogitAdjustedLoss(np.bincount(splits["train"]["label"])),
        compute_metrics=make_compute_metrics(len(CLASSES), per_class=False),
    )
    ProgressLines.replace_logs_of(trainer, every=50 // eval_steps)
    return trainer


def selmix_trainer(model: Any, splits: DatasetDict, **options: Any) -> SelMixTrainer:
    """All weights, from the model's own head, with gains from counts and the rate that was tuned for networks of ten
    classes. The network was trained from scratch, so its backbone may move faster than the default of 0.0001; 32 pairs
    and ten steps a period, since network and gain set are tiny."""
    trainer = SelMixTrainer(
        model=model,
        args=SelMixConfig(
            learning_rate=0.003,
            backbone_learning_rate=0.0003,
            confusion="hard",
            head_start="as_is",
            per_device_train_batch_size=32,  # 64 images
            refresh_steps=LOOK,
            **SHARED,
            **options,
        ),
        train_dataset=distorted(splits["train"]),
        gain_dataset=splits["validation"],
        eval_dataset=splits["validation"],  # chooses the checkpoint
        processing_class=PROCESSOR,
    )
    ProgressLines.replace_logs_of(trainer, every=8)
    return trainer


def run(
    arguments: Arguments, seed: int, folder: Path, with_rivals: bool, say: Callable[[str], None]
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Train with one seed; the confusion counts of the test images for each method, the start first, what
    `RunResults` has of SelMix's run beside them, and what `Results` has of its settings and data."""
    splits = long_tailed_digits(seed)
    sizes = np.bincount(splits["train"]["label"])
    say(f'seed {seed}: {sum(sizes)} training images, {sizes[0]} of "0" down to {sizes[-1]} of "9"')

    def test_counts(trainer: Trainer) -> torch.Tensor:
        return counts_of(trainer.predict(splits["test"])[:2], len(CLASSES))

    def options(name: str) -> dict[str, Any]:
        return {"output_dir": str(folder / "checkpoints" / name), "seed": seed, "max_steps": arguments.steps}

    say("stage 1, logit-adjusted loss, until mean recall stops rising")
    set_seed(seed)
    config = TimmWrapperConfig(architecture=ARCHITECTURE, pretrained_cfg=PIXELS, num_labels=len(CLASSES))
    model = TimmWrapperForImageClassification(config).to(memory_format=torch.channels_last)  # faster
    stage1 = stage1_trainer(model, splits, **{**options("stage1"), "max_steps": arguments.stage1_steps})
    stage1.add_callback(EarlyStoppingCallback(early_stopping_patience=8))
    stage1.train()
    counts = {"end of stage 1": test_counts(stage1)}
    start = copy.deepcopy(model)

    say(f"SelMix from there, for {arguments.objective}")
    objective = {"objective": arguments.objective}
    selmix = selmix_trainer(model, splits, **objective, **options("selmix"))
    began = time.perf_counter()
    selmix.train()
    seconds = round(time.perf_counter() - began, 1)
    selmix.save_model(str(folder))
    after = test_counts(selmix)
    if selmix.is_world_process_zero():
        save_plots(selmix, folder / "plots", counts["end of stage 1"], after, f"{len(splits['test'])} test images")
    if with_rivals:
        say("rival: as many more steps of stage 1")
        metric = arguments.objective if arguments.objective in ("min_recall", "g_mean", "h_mean") else "mean_recall"
        more = stage1_trainer(copy.deepcopy(start), splits, metric, eval_steps=LOOK, **options("more"))
        more.train()
        looks = {log["step"]: log for log in stage1.state.log_history if "eval_loss" in log}
        if more.state.best_metric <= looks[stage1.state.best_global_step][f"eval_{metric}"]:
            more.model.load_state_dict(start.state_dict())  # the start is a candidate, as it is for SelMix
        counts["as many more steps of stage 1"] = test_counts(more)
        say("rival: as many steps of uniform mixup")
        uniform = selmix_trainer(start, splits, pair_sampling="uniform", **objective, **options("uniform"))
        uniform.train()
        counts["as many steps of uniform mixup"] = test_counts(uniform)
    of_run = {"seed": seed, "seconds": seconds, **run_report(selmix)}
    facts = {"settings": settings_of(selmix.args, arguments), "train_counts": sizes.tolist()}
    return {**counts, "SelMix": after}, of_run, facts


def main(argv: list[str] | None = None) -> dict[str, Any]:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    began = time.perf_counter()
    try:
        (arguments,) = parse_arguments(Arguments, argv)
        config = SelMixConfig(arguments.output_dir, objective=arguments.objective, **SHARED)
    except (OSError, ValueError) as error:
        raise SystemExit(f"quickstart.py: {error}") from error
    is_main = config.process_index == 0
    say = partial(print, flush=True) if is_main else lambda text: None
    folder, reports, runs, facts = Path(arguments.output_dir), {}, [], []
    for seed in arguments.seeds or [arguments.seed]:
        own = folder / f"seed_{seed}" if arguments.seeds else folder
        of_methods, of_run, of_seed = run(arguments, seed, own, bool(arguments.seeds), say)
        for method, counts in of_methods.items():
            reports.setdefault(method, []).append(classification_metrics(counts, class_names=CLASSES))
        before, after = reports["end of stage 1"], reports["SelMix"]
        runs.append(RunResults(**of_run, test_before=before[-1], test_after=after[-1]))
        facts.append(of_seed)
        worst = [f"{method} {of_seeds[-1]['min_recall']:.3f}" for method, of_seeds in reports.items()]
        say(f"worst-class recall on test: {', '.join(worst)}\n" if arguments.seeds else "")
    results = Results(
        name=f"digits-{arguments.objective.replace('_', '-')}",
        objective=arguments.objective,
        versions=versions(),
        hardware=hardware(config.world_size, not torch.cuda.is_available()),
        command=command_of("quickstart.py", sys.argv[1:] if argv is None else argv),
        base_model=None,
        dataset="the handwritten digits of scikit-learn, long-tailed",
        dataset_id=None,
        split_digest=None,
        remark="Every seed draws its own splits.",
        class_names=CLASSES,
        runs=runs,
        change_and_interval={},
        test=reports,
        **facts[0],
    )
    if is_main:
        results.save(folder)

    say("On the test images:\n")
    say(seeds_table(reports) if arguments.seeds else before_after_table(before, after))
    say(f"\n{interval_note('test images', len(after))}")
    say(f"{time.perf_counter() - began:.0f} seconds. Model, plots and numbers are in {folder}/.")
    return results.to_dict()


if __name__ == "__main__":
    main()

"""What test_trainer_distributed starts in two processes: runs that write what they saw to files.

torchrun --nproc_per_node 2 tests/distributed_run.py FOLDER
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import TrainingArguments

from selmix_hf import GainFidelityCallback, Stage1Trainer

CASES = {
    "whole": ("resnet", {}),
    "frozen": ("resnet", {"freeze_backbone": True}),
    "augmented": ("convnext", {}),
    "augmented and frozen": ("convnext", {"freeze_backbone": True, "feature_views": 2}),
    "augmented, features on disk": ("convnext", {"freeze_backbone": True, "feature_views": 2}),
    "features on disks of two nodes": ("convnext", {"freeze_backbone": True}),
    "unlabelled, ema": ("resnet", {"pseudo_label_source": "ema", "ema_decay": 0.5, "pseudo_label_steps": 4}),
    "augmented, unlabelled and frozen": ("convnext", {"freeze_backbone": True, "feature_views": 2}),
    "augmented cutmix": ("convnext", {"mixing": "cutmix"}),
    "unlabelled puzzlemix": ("resnet", {"mixing": "puzzlemix", "pseudo_label_steps": 4}),
}
if find_spec("peft"):
    CASES["adapter"] = ("vit", {"backbone_learning_rate": 0.02, "load_best_model_at_end": False})

VIEWS = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
SINGLE_SAMPLES = {
    "class-balanced": {"sampling": "class_balanced", **VIEWS},
    "square root, frozen": {"sampling": "square_root", "freeze_backbone": True, "feature_views": 2, **VIEWS},
    "own weights, accumulated": {"sample_weights": [1.0, 2.0, 3.0] * 19, "gradient_accumulation_steps": 2},
    "stage 1": {"sampling": [1, 1, 2, 3], "loss": "cross_entropy", **VIEWS},
}


class OfThisProcess:
    """A transform that hashes to something else on every process."""

    def __init__(self) -> None:
        self.rank = os.environ.get("RANK")

    def __call__(self, image: Any) -> torch.Tensor:
        return tiny.to_tensor(image)


def run_case(folder: Path, case: str, batch: int) -> dict[str, Any]:
    """Train; what this process saw of labels, coefficients, counts, P, losses, weights and metrics."""
    kind, options = CASES[case]
    if "augmented" in case:
        options = {**options, "train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
    if "unlabelled" in case:  # 39: odd, for two processes
        options = {**options, "unlabeled_dataset": tiny.images((12, 9, 11, 7), seed=5).remove_columns("label")}
    if "disk" in case:
        node = os.environ.get("RANK", "0") if "nodes" in case else "0"
        options = {**options, "feature_cache_dir": str(folder / case / f"cache-{node}")}
        options = {"train_transform": tiny.to_tensor, **options, "eval_transform": OfThisProcess()}
    watch = GainFidelityCallback(every=1, mixes="drawn" if "augmented" in case else "centroid", num_mixes=4)
    options = {"callbacks": [watch], **options}
    options = {"objective": "mean_recall", "learning_rate": 0.02, "save_strategy": "epoch", **options}
    model = tiny.lora(kind) if case == "adapter" else kind
    run = tiny.trainer(folder / case, model, per_device_train_batch_size=batch, **options)
    if case == "whole":
        run.predict(run.eval_dataset)  # by Trainer's own loop, which prepares the model for evaluation alone
    draws, counts = [], []
    plain_loss, plain_refresh = run.compute_loss, run.periods.refresh

    def compute_loss(model, inputs, **kwargs):
        draws.append(torch.stack([inputs["labels"].double(), inputs["mixing_coefficient"].double()]))
        return plain_loss(model, inputs, **kwargs)

    def refresh():
        plain_refresh()
        counts.append((run.gain_counts, run.pair_state.probability))

    run.compute_loss, run.periods.refresh = compute_loss, refresh
    with as_on_two_nodes() if "nodes" in case else nullcontext():
        seen = {"start": run.evaluate()}
        run.train()
        if "nodes" in case and run.is_world_process_zero():  # the other node still has its features
            shutil.rmtree(run.args.feature_cache_dir)
        seen["end"] = run.evaluate()
    seen |= {"draws": draws, "counts": counts, "losses": tiny.losses(run)}
    seen |= {"fidelity": [log for log in run.state.log_history if "gain_fidelity_step" in log]}
    seen |= {"pseudo_labels": run.pseudo_labels}
    return seen | {"weights": tiny.weights(run), "best": Path(run.state.best_model_checkpoint).name, "run": run}


def run_single_samples(folder: Path, case: str, batch: int) -> dict[str, Any]:
    """Train eight steps, and the last three once more from the checkpoint of the fifth, in the middle of the second
    period of four (or epoch, as 57 draws in steps of 16 are filled up to 64): labels and sums of the inputs that this
    process trained on, losses and weights."""
    seen: dict[str, Any] = {}
    for name in ("whole", "resumed"):
        run = single_samples_run(folder / case / name, case, batch)
        draws: list[torch.Tensor] = []
        record_draws(run, draws)
        torch.manual_seed(5)
        run.train(resume_from_checkpoint=str(folder / case / "whole" / "checkpoint-5") if name == "resumed" else None)
        seen[name] = {"draws": draws, "losses": tiny.losses(run)[-3:], "weights": tiny.weights(run), "run": run}
    return seen


def single_samples_run(folder: Path, case: str, batch: int) -> Any:
    saving = {"save_strategy": "steps", "save_steps": 5, "max_steps": 8, "per_device_train_batch_size": batch}
    options = dict(SINGLE_SAMPLES[case])
    if case != "stage 1":
        saving |= {"eval_strategy": "no", "load_best_model_at_end": False, "learning_rate": 0.02}
        saving["per_device_train_batch_size"] //= options.get("gradient_accumulation_steps", 1)
        return tiny.trainer(folder, "convnext", **options, **saving)
    backend = "gloo" if "WORLD_SIZE" in os.environ else None
    arguments = TrainingArguments(
        str(folder),
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        logging_steps=1,
        optim="sgd",
        learning_rate=0.02,
        ddp_backend=backend,
        **saving,
    )
    return Stage1Trainer(tiny.model("convnext"), arguments, train_dataset=tiny.images(), **options)


def record_draws(run: Any, draws: list[torch.Tensor]) -> None:
    plain_loss = run.compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        (values,) = (value for name, value in inputs.items() if name != "labels")
        draws.append(torch.stack([inputs["labels"].double(), values.double().flatten(1).sum(1)]))
        return plain_loss(model, inputs, *args, **kwargs)

    run.compute_loss = compute_loss


@contextmanager
def as_on_two_nodes() -> Iterator[None]:
    """Each process is the only one of its node."""
    before = {name: os.environ.get(name) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    yield
    for name, value in before.items():
        os.environ.pop(name)
        os.environ |= {} if value is None else {name: value}


def main(folder: Path) -> None:
    for case in CASES:
        seen = run_case(folder, case, batch=4)
        run = seen.pop("run")
        torch.save(seen, folder / f"{case}-{run.args.process_index}.pt")
    for case in SINGLE_SAMPLES:
        seen = run_single_samples(folder, case, batch=8)
        for part in seen.values():
            part.pop("run")
        torch.save(seen, folder / f"{case}-{run.args.process_index}.pt")
    torch.distributed.barrier()
    run.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

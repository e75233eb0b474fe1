"""What test_trainer_distributed starts in two processes: runs that write what they saw to files.

torchrun --nproc_per_node 2 tests/distributed_run.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import tiny
import torch

CASES = {
    "whole": ("resnet", {}),
    "frozen": ("resnet", {"freeze_backbone": True}),
    "augmented": ("convnext", {}),
    "augmented and frozen": ("convnext", {"freeze_backbone": True, "feature_views": 2}),
}


def run_case(folder: Path, case: str, batch: int) -> dict[str, Any]:
    """Train; what this process saw of labels, coefficients, counts, P, losses, weights and metrics."""
    kind, options = CASES[case]
    if "augmented" in case:
        options = {**options, "train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
    options = {"objective": "mean_recall", "learning_rate": 0.02, "save_strategy": "epoch", **options}
    run = tiny.trainer(folder / case, kind, per_device_train_batch_size=batch, **options)
    if case == "whole":
        run.predict(run.eval_dataset)  # by Trainer's own loop, which prepares the model for evaluation alone
    draws, counts = [], []
    plain_loss, plain_refresh = run.compute_loss, run.refresh

    def compute_loss(model, inputs, **kwargs):
        draws.append(torch.stack([inputs["labels"].double(), inputs["mixing_coefficient"].double()]))
        return plain_loss(model, inputs, **kwargs)

    def refresh():
        plain_refresh()
        counts.append((run.gain_counts, run.pair_state.probability))

    run.compute_loss, run.refresh = compute_loss, refresh
    seen = {"start": run.evaluate()}
    run.train()
    seen |= {"end": run.evaluate(), "draws": draws, "counts": counts, "losses": tiny.losses(run)}
    return seen | {"weights": tiny.weights(run), "best": Path(run.state.best_model_checkpoint).name, "run": run}


def main(folder: Path) -> None:
    for case in CASES:
        seen = run_case(folder, case, batch=4)
        run = seen.pop("run")
        torch.save(seen, folder / f"{case}-{run.args.process_index}.pt")
    torch.distributed.barrier()
    run.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a run must keep to go on: saved with every checkpoint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from selmix_hf.data.weighted import identity
from selmix_hf.training.readable import read_tensors


@dataclass
class PairState:
    """What a run must keep to go on drawing the same pairs, or single samples: saved with every checkpoint.

    Attributes:
        period: number of the period that P was made for; -1 before the first.
        probability: P, K x K, or None before the first period and where single samples are drawn.
        multipliers: of the objective.
        start_counts: counts (K x K) of the gain set where the run began, or None before the first period.
        pseudo_labels: of the unlabelled samples, shape N, -1 for those that are not used; None without such samples.
        average: moving average of weights, by name; empty without one.
        learning_rate: of the head, which may have been worked out; 0 in older files.
        selection: what the best checkpoint so far is known by, see `selection.Selection.saved`; None in older files.
        geometry: what fixes where a period begins and what it is for (refresh_steps, pairs a step, objective, ...),
            compared on resume.
    """

    period: int = -1
    probability: Tensor | None = None
    multipliers: dict[str, Tensor] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)
    start_counts: Tensor | None = None
    pseudo_labels: Tensor | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    learning_rate: float = 0.0
    selection: Tensor | None = None

    FILE_NAME = "selmix_state.safetensors"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `FILE_NAME` into the folder, which is made if need be, whole or not at all."""
        tensors = {f"multiplier.{name}": value.contiguous() for name, value in self.multipliers.items()}
        if self.probability is not None:
            tensors["probability"] = self.probability.cpu().contiguous()
        metadata = {"period": str(self.period), "geometry": json.dumps(self.geometry)}
        metadata["learning_rate"] = repr(self.learning_rate)
        if self.start_counts is not None:  # as (row, column, count): no more entries than images were counted
            rows, columns = self.start_counts.nonzero(as_tuple=True)
            tensors["start_counts"] = torch.stack([rows, columns, self.start_counts[rows, columns]]).cpu()
            metadata["num_classes"] = str(len(self.start_counts))
        if self.pseudo_labels is not None:
            tensors["pseudo_labels"] = self.pseudo_labels.cpu().contiguous()
        if self.selection is not None:
            tensors["selection"] = self.selection.contiguous()
        tensors |= {f"average.{name}": value.cpu().contiguous() for name, value in self.average.items()}
        path = Path(folder) / self.FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path.with_suffix(".tmp"), metadata=metadata)
        os.replace(path.with_suffix(".tmp"), path)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PairState:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder has no such file.
            ValueError: it is cut, or another program wrote it.
        """
        path = Path(folder) / cls.FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the checkpoint was not written by SelMixTrainer, or in part.")
        tensors, metadata = read_tensors(path)
        if missing := {"period", "geometry"} - metadata.keys():
            raise ValueError(f"{path} has no {' and no '.join(sorted(missing))}: SelMixTrainer did not write it.")
        counts = tensors.pop("start_counts", None)
        if counts is not None:
            rows, columns, values = counts
            size = int(metadata.get("num_classes") or len(tensors["probability"]))  # the former not in older files
            counts = torch.zeros(size, size, dtype=values.dtype).index_put_((rows, columns), values)

        def named(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        return cls(
            period=int(metadata["period"]),
            probability=tensors.pop("probability", None),
            multipliers=named("multiplier."),
            pseudo_labels=tensors.pop("pseudo_labels", None),
            average=named("average."),
            selection=tensors.pop("selection", None),
            geometry=json.loads(metadata["geometry"]),
            learning_rate=float(metadata.get("learning_rate", 0)),
            start_counts=counts,
        )


def geometry_of(trainer: Any) -> dict[str, Any]:
    """What fixes where the periods of a `SelMixTrainer` begin, what is drawn in them and what for; a resumed run must
    have the same."""
    args, unlabeled, plan = trainer.args, trainer.sets.unlabeled, trainer.draws.plan
    kept: dict[str, Any] = args.kept_on_resume(with_pseudo_labels=unlabeled is not None)
    if unlabeled is not None:
        kept |= {"teacher": trainer.unlabeled.teacher is not None, "unlabeled_rows": unlabeled.digest}
    return kept | {  # of an option: as the run has it
        "mixing": "feature" if trainer.mixer is None else trainer.mixer.name,
        "sampling": identity(trainer.sets.sampling, trainer.sets.sample_weights),
        "reuse_samples": args.reuse_samples and plan.batch_size(),  # within a batch of a process
        "objective": trainer.objective.name,
        "constraints": args.constraints or {},
        "worst_share": trainer.objective.metric.share,
        "unlabeled": 0 if unlabeled is None else len(unlabeled),
        "pairs_per_step": plan.a_step,
        "seed": plan.seed,
    }

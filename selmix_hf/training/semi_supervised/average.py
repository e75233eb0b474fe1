"""The average of a model's weights over a run: what is evaluated and saved."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from selmix_hf.models.averages import WeightAverage
from selmix_hf.training.checkpoints import require_same
from selmix_hf.training.readable import read_tensors

FILE_NAME = "weight_average.safetensors"


class WeightAverageCallback(TrainerCallback):
    """After step t: average = d average + (1 - d) weights, with d = min(decay, 1 - 1/t).

    So it is the plain mean of the weights of all steps until 1/t falls below 1 - decay, and exponential from there
    (Tarvainen and Valpola 2017, arXiv 1703.01780, equation 7; the bound is their published code's): a short run does
    not end with an average that is still its start. Every floating-point entry of the state dict is averaged, the
    running statistics of batch-norm too, in float32 or better; other entries are those of the latest step.

    Args:
        decay: in [0, 1); 0 is the latest weights.

    Raises:
        ValueError: decay outside [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), found {decay}: 0.999 averages about 1,000 steps.")
        self.decay = decay
        self._average: WeightAverage | None = None

    @property
    def values(self) -> dict[str, Tensor] | None:
        """The average by the names of the state dict; None before a run and after its end."""
        return None if self._average is None else self._average.tensors

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._average = WeightAverage(model.state_dict)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._known().update(min(self.decay, 1 - 1 / state.global_step))

    def in_place_of_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the averaged weights; without an average it is left as it is."""
        return nullcontext() if self._average is None else self._average.in_place()

    def settle(self) -> None:
        """Give the model the averaged weights for good."""
        self._known().settle()
        self._average = None

    def save(self, folder: str | os.PathLike[str], model: nn.Module, geometry: Mapping[str, Any]) -> None:
        """Write average and weights into a checkpoint, and what a resumed run must keep."""
        both = {"average": self._known().tensors, "weights": model.state_dict()}
        tensors = {f"{kind}.{name}": value for kind, part in both.items() for name, value in part.items()}
        tensors = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        save_file(tensors, Path(folder) / FILE_NAME, {"geometry": json.dumps(geometry)})

    def load(self, folder: str | os.PathLike[str], model: nn.Module, geometry: Mapping[str, Any]) -> None:
        """Read them back, each into its place.

        Raises:
            FileNotFoundError: the checkpoint is of another trainer.
            ValueError: the file is cut, or its run had another geometry.
        """
        if not (path := Path(folder) / FILE_NAME).is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE_NAME}, so another trainer wrote it: resume from a checkpoint of this one, or "
                "start anew from its weights by loading the model from it."
            )
        tensors, metadata = read_tensors(path)
        before = json.loads(metadata.get("geometry", "{}"))
        require_same(folder, before, geometry, "its steps would draw other images")
        parts: dict[str, dict[str, Tensor]] = {"average": {}, "weights": {}}
        for name, value in tensors.items():
            kind, _, own = name.partition(".")
            parts[kind][own] = value
        model.load_state_dict(parts["weights"])
        self._average = WeightAverage(model.state_dict)
        self._average.load(parts["average"])

    def _known(self) -> WeightAverage:
        if self._average is None:
            raise RuntimeError("there is no average of weights outside a run: call train() first.")
        return self._average

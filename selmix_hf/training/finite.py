"""What is not finite in a training step: found before the update, and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from selmix_hf.data.bad_images import read_one
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.training.health import WAY_OUT

LABELLED = "train_dataset"


def require_finite_gradients(model: nn.Module, step: int) -> None:
    """Stop the run before an update by gradients that are not finite, of which clipping would make NaN everywhere.

    Raises:
        FloatingPointError: naming a parameter, the step and the way out.
    """
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    if not gradients or math.isfinite(float(nn.utils.get_total_norm(gradients.values()))):
        return
    bad = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
    if bad:  # else the norm alone is too large
        raise FloatingPointError(
            f"the gradient is not finite at step {step} ({bad[0]}, {len(bad)} of {len(gradients)} tensors); stopped "
            f"before the update, earlier checkpoints are intact. {WAY_OUT}"
        )


def not_finite(inputs: Mapping[str, Any]) -> list[str]:
    """Names of what is not finite in a batch."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    return [name for name, value in tensors.items() if not bool(value.isfinite().all())]


def sentence_on_inputs(
    inputs: Mapping[str, Any], sets: Mapping[str, tuple[Any, Callable[[list[Any]], Any]]], names: Sequence[str]
) -> str:
    """Which sample spoilt a batch; "" where its inputs are finite. The sets are searched row by row, which takes a
    while, as a batch does not say where its samples come from.

    Args:
        inputs: the batch.
        sets: that it may come from, by name, each with what makes a batch of one sample; `LABELLED` has true classes.
        names: of the classes (K).
    """
    bad = not_finite(inputs)
    if not bad:
        return ""
    for title, (dataset, collator) in sets.items():
        for row in range(len(dataset)):
            with isolated_random_state(0):
                batch = collator([read_one(dataset, row)])
            if found := not_finite(batch):
                label = batch.get("labels") if title == LABELLED else None
                of_class = "" if label is None else f" of class {names[int(label[0])]!r}"
                return f"{title}, row {row}{of_class}: {', '.join(found)} not finite. Mend it or leave it out."
    return f"Its {', '.join(bad)} are not finite, and those of no sample alone: look at what is random in a transform."

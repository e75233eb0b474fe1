"""A class bias that is tuned on the gain set and added to a trained head.

Shape suffix: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor

from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.method.objectives import Objective


def add_class_bias(trainer: Any, share: float = 1.0) -> None:
    """Add to the head of a trained `SelMixTrainer` a share of the class bias that is best for the objective on its
    gain set (`head_fitting.class_bias.tune_class_bias`).

    The whole bias has the most of the objective there, at the cost of what the objective does not count; a share is
    between the two (docs/results.md has half). Numbers on the gain set are optimistic afterwards.
    `trainer.save_model` saves the result. Without `feature_cache_dir` the gain set is passed through the model again.

    Raises:
        ValueError: the head has no bias.
    """
    require_bias(trainer.head)
    add_to_bias(trainer.head, share * class_bias_of([trainer]))
    trainer.evaluations.forget(trainer.step_of_weights())


def class_bias_of(trainers: Sequence[Any], objective: Objective | None = None) -> Tensor:
    """The class bias, K, that is best for the objective (default: that of the first) on the gain sets of the trainers
    together, each scored by its own head; the same on every process."""
    scores, labels = [], []
    for trainer in trainers:
        gain = trainer.gain_set.features()
        with torch.no_grad():
            scores.append(trainer.head.logits(gain.take(slice(None)).to(trainer.args.device)).float().cpu())
        labels.append(gain.labels)
    bias_K = tune_class_bias(torch.cat(scores), torch.cat(labels), objective or trainers[0].objective)
    shared_K: Tensor = broadcast(bias_K.to(trainers[0].args.device))
    return shared_K.cpu()


def require_bias(head: Any) -> None:
    """Refuse a head without a bias."""
    if head.bias is None:
        raise ValueError("a class bias is added to the head's own, and this head has none: leave it out.")


def add_to_bias(head: Any, bias_K: Tensor) -> None:
    """Add a vector (K) to the head's bias."""
    head.assign(head.weight, head.bias + bias_K.to(head.bias))

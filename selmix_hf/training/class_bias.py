"""What else the gain set may do beside steering: refit the head, train, and set a class bias.

A balanced validation set often has more images of the rare classes than the training set. Numbers on a set that trains
are optimistic: what counts then is a test set. Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import broadcast
from datasets import Dataset
from torch import Tensor

from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.method.objectives import Objective

Make = Callable[[Dataset, Dataset, int], Any]
_STEPS, _BATCH, _STEP_SIZE = 2000, 128, 0.5  # the last over the mean squared norm of the features


def add_class_bias(trainer: Any, share: float = 1.0) -> None:
    """Add to the head of a trained `SelMixTrainer` a share of the class bias that is best for the objective on its
    gain set (`head_fitting.class_bias.tune_class_bias`).

    The whole bias has the most of the objective there, at the cost of what the objective does not count; a share is
    between the two (docs/results.md has half). Numbers on the gain set are optimistic afterwards.
    `trainer.save_model` saves the result. Without `feature_cache_dir` the gain set is passed through the model again.

    Raises:
        ValueError: the head has no bias.
    """
    _require_bias(trainer.head)
    _add(trainer.head, share * class_bias_of([trainer]))
    trainer.forget_evaluations()


def class_bias_of(trainers: Sequence[Any], objective: Objective | None = None) -> Tensor:
    """The class bias, K, that is best for the objective (default: that of the first) on the gain sets of the trainers
    together, each scored by its own head; the same on every process."""
    scores, labels = [], []
    for trainer in trainers:
        gain = trainer.gain_set_features()
        with torch.no_grad():
            scores.append(trainer.head.logits(gain.take(slice(None)).to(trainer.args.device)).float().cpu())
        labels.append(gain.labels)
    bias_K = tune_class_bias(torch.cat(scores), torch.cat(labels), objective or trainers[0].objective)
    return broadcast(bias_K.to(trainers[0].args.device)).cpu()


def _require_bias(head: Any) -> None:
    if head.bias is None:
        raise ValueError("a class bias is added to the head's own, and this head has none: leave it out.")


def _add(head: Any, bias_K: Tensor) -> None:
    head.assign(head.weight, head.bias + bias_K.to(head.bias))

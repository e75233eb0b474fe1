"""Every gain sample steers one run and trains in another; the mean of the two heads is the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from selmix_hf.training.class_bias import add_to_bias, class_bias_of, require_bias
from selmix_hf.training.refit import with_gain_set

Make = Callable[[Dataset, Dataset, int], Any]


def cross_fit(
    make_trainer: Make,
    train_dataset: Dataset,
    gain_dataset: Dataset,
    label_column: str = "label",
    bias_share: float = 0.0,
) -> Any:
    """Every gain image gives pairs in one run and steers another.

    The gain set is cut into two halves of each class. Two heads are trained from the same start, each on the training
    set and one half, steered by the other half; their mean is the result. With `gain_set_use="refit"` each run begins
    with a head refitted on all images.

    Args:
        make_trainer: called with training set, gain set and 0 or 1; makes a `SelMixTrainer` with a frozen backbone, a
            fresh copy of the same model and the same options in both calls, but an output_dir of its own.
        train_dataset, gain_dataset: with the same columns.
        label_column: of the classes.
        bias_share: of a class bias that is added to the mean, see `add_class_bias`; tuned on the scores of either half
            by the head that it steered.

    Returns:
        the first trainer, whose model has the mean of the heads; both are trained. `save_model` saves it.

    Raises:
        TypeError, ValueError: sets that cannot be joined, a class with one gain image, a backbone that trains, one
            model for both runs, a bias for a head that has none.
    """
    halves = halves_of(np.asarray(gain_dataset.with_format("numpy")[label_column][:]))
    images = [gain_dataset.select(rows_N) for rows_N in halves]
    made: list[Any] = []
    for i in (0, 1):
        made.append(make_trainer(with_gain_set(train_dataset, images[i]), images[1 - i], i))
        if not made[-1].args.freeze_backbone:
            raise ValueError("cross_fit averages heads, which needs one backbone: set freeze_backbone=True.")
        if i and made[0].head.modules[0] is made[1].head.modules[0]:
            raise ValueError(
                "both runs got one model, so that the second goes on from the first: load it in make_trainer."
            )
        if bias_share:
            require_bias(made[-1].head)
        made[-1].train()
    bias_K = bias_share * class_bias_of(made) if bias_share else None
    average_heads(made)
    if bias_K is not None:
        add_to_bias(made[0].head, bias_K)
    made[0].evaluations.forget(made[0].step_of_weights())
    return made[0]


def halves_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two halves of each class, in the order of the rows.

    Raises:
        ValueError: a class with one sample.
    """
    order_N = np.argsort(labels, kind="stable")
    sizes_K = np.bincount(labels)
    if bool((sizes_K == 1).any()):
        raise ValueError(
            f"two halves of each class need two gain images a class; class {int(np.argmax(sizes_K == 1))} has one."
        )
    rank_N = np.arange(len(labels)) - np.repeat(np.cumsum(sizes_K) - sizes_K, sizes_K)  # within its class
    return np.sort(order_N[rank_N % 2 == 0]), np.sort(order_N[rank_N % 2 == 1])


def average_heads(trainers: Sequence[Any]) -> None:
    """Give the first trainer's model the mean of the heads: logits are then the mean of their logits."""
    heads = [trainer.head for trainer in trainers]
    biases = [head.bias for head in heads if head.bias is not None]
    weight = torch.stack([head.weight for head in heads]).mean(0)
    heads[0].assign(weight, torch.stack(biases).mean(0) if biases else None)

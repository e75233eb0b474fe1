"""What else the gain set may do beside steering: refit the head, train, and set a class bias.

A balanced validation set often has more images of the rare classes than the training set. Numbers on a set that trains
are optimistic: what counts then is a test set. Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from selmix_hf.data.collators import SelMixCollator
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.method.objectives import Objective

Make = Callable[[Dataset, Dataset, int], Any]
_STEPS, _BATCH, _STEP_SIZE = 2000, 128, 0.5  # the last over the mean squared norm of the features


def with_gain_set(train_dataset: Any, gain_dataset: Any) -> Dataset:
    """Training images, then those of the gain set.

    Raises:
        TypeError: one of them is no `datasets.Dataset`, or has a transform of its own.
        ValueError: their columns differ.
    """
    for name, dataset in (("train_dataset", train_dataset), ("gain_dataset", gain_dataset)):
        if not isinstance(dataset, Dataset) or dataset.format["type"] == "custom":
            found = "one with a transform of its own" if isinstance(dataset, Dataset) else type(dataset).__name__
            raise TypeError(
                f"sets that train together are joined, which needs datasets.Dataset without transforms; found {found} "
                f"as {name}. Give image columns as they are, and transforms to SelMixTrainer(train_transform=...)."
            )
    kinds = train_dataset.features, gain_dataset.features
    if kinds[0] != kinds[1]:
        names = [name for name in {**kinds[0], **kinds[1]} if kinds[0].get(name) != kinds[1].get(name)]
        raise ValueError(
            f"sets that train together need the same columns; train_dataset and gain_dataset differ in "
            f"{', '.join(names)}: use cast or select_columns."
        )
    return concatenate_datasets([train_dataset, gain_dataset])


def refit_head(trainer: Any) -> None:
    """Retrain the head of a `SelMixTrainer` on its training and gain sets with the logit-adjusted loss; the backbone
    stays as it is, and images are not augmented.

    2,000 steps of 128 samples by SGD with momentum .9 and a cosine, from the head as it is; the rate is 0.5 over the
    mean squared norm of the features, so that one suits all backbones. Every process ends with the same head.
    """
    head, labels_N = trainer.head, torch.as_tensor(trainer._train_labels)
    with isolated_random_state(trainer._seed()):
        features_ND = _training_features(trainer)
        if trainer.args.gain_set_use != "train":  # else they are in train_dataset
            gain = trainer.gain_set_features()
            features_ND = torch.cat([features_ND, gain.take(slice(None))])
            labels_N = torch.cat([labels_N, gain.labels])
    weight = head.weight.float().cpu()
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.float().cpu()
    rate = _STEP_SIZE / float(features_ND.square().sum(1).mean())
    loss = LogitAdjustedLoss(torch.bincount(labels_N, minlength=len(weight)).clamp(min=1))
    options: dict[str, Any] = {
        "fit_bias": head.bias is not None,
        "steps": _STEPS,
        "batch_size": _BATCH,
        "learning_rate": rate,
        "seed": trainer._seed(),
    }
    fitted = retrain_head(features_ND, labels_N, len(weight), loss, start=(weight, bias), **options)
    head.assign(*(broadcast(tensor.to(trainer.args.device)) for tensor in fitted))


def _training_features(trainer: Any) -> Tensor:
    stored = trainer._train_features
    if stored is not None:
        return stored.views[0].float()
    collator = SelMixCollator(trainer.data_collator.eval_collator)
    return trainer._pass().features(trainer.train_dataset, collator)


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
            _require_bias(made[-1].head)
        made[-1].train()
    bias_K = bias_share * class_bias_of(made) if bias_share else None
    average_heads(made)
    if bias_K is not None:
        _add(made[0].head, bias_K)
    made[0].forget_evaluations()
    return made[0]


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

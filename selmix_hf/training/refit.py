"""The gain set trains too: it refits the head, or joins the training set.

A balanced validation set often has more images of the rare classes than the training set. Numbers on a set that trains
are optimistic: what counts then is a test set. Shape suffixes: N samples, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from selmix_hf.data.collators import SelMixCollator
from selmix_hf.data.numbering import with_classes_of
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.features.stored import FeatureDataset
from selmix_hf.head_fitting.retraining import retrain_head
from selmix_hf.method.losses import LogitAdjustedLoss

_STEPS, _BATCH, _STEP_SIZE = 2000, 128, 0.5  # the last over the mean squared norm of the features


def with_gain_set(train_dataset: Any, gain_dataset: Any) -> Dataset:
    """Training images, then those of the gain set, whose classes get the numbers that they have in the training set.

    Raises:
        TypeError: one of them is no `datasets.Dataset`, or has a transform of its own.
        ValueError: their columns differ, or their classes, see `numbering.with_classes_of`.
    """
    for name, dataset in (("train_dataset", train_dataset), ("gain_dataset", gain_dataset)):
        if not isinstance(dataset, Dataset) or dataset.format["type"] == "custom":
            found = "one with a transform of its own" if isinstance(dataset, Dataset) else type(dataset).__name__
            raise TypeError(
                f"sets that train together are joined, which needs datasets.Dataset without transforms; found {found} "
                f"as {name}. Give image columns as they are, and transforms to SelMixTrainer(train_transform=...)."
            )
    gain_dataset = with_classes_of(gain_dataset, "gain_dataset", train_dataset.features, "train_dataset")
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
    head, seed, labels_N = trainer.head, trainer.passes.seed, torch.as_tensor(trainer.sets.train_labels)
    with isolated_random_state(seed):
        features_ND = _training_features(trainer)
        if trainer.args.gain_set_use != "train":  # else they are in train_dataset
            gain = trainer.gain_set.features()
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
        "seed": seed,
    }
    fitted = retrain_head(features_ND, labels_N, len(weight), loss, start=(weight, bias), **options)
    trainer.assign_head(*fitted)


def _training_features(trainer: Any) -> Tensor:
    stored: FeatureDataset | None = trainer.train_features
    if stored is not None:
        return stored.views[0].float()
    look: DatasetPass = trainer.passes.look
    return look.features(trainer.train_dataset, SelMixCollator(trainer.data_collator.eval_collator))

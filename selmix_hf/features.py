"""The frozen-backbone path: pooled features computed once, and the model run on them instead of on raw inputs.

Shape suffixes: N samples, V views, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from selmix_hf.heads import ClassifierHead

FEATURES = "pooled_features"


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Stored features with their labels; several augmented views of a sample count as samples of their own.

    Args:
        features: V x N x D, or N x D for one view.
        labels: integers, shape N.
    """

    def __init__(self, features: Tensor, labels: Sequence[int] | Tensor) -> None:
        labels_N = torch.as_tensor(labels)
        self.num_views = 1 if features.ndim == 2 else len(features)
        self.features = features.reshape(-1, features.shape[-1])
        self.labels = labels_N.repeat(self.num_views)
        if len(self.labels) != len(self.features):
            raise ValueError(f"{len(labels_N)} labels do not fit features of shape {tuple(features.shape)}.")

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {FEATURES: self.features[index], "labels": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        chosen = torch.as_tensor(indices)
        pairs = zip(self.features[chosen], self.labels[chosen], strict=True)
        return [{FEATURES: feature, "labels": label} for feature, label in pairs]


@torch.no_grad()
def pooled_features(
    model: nn.Module,
    head: ClassifierHead,
    batches: Iterable[dict[str, Any]],
    num_samples: int,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch,
) -> Tensor:
    """Features that enter the head, in eval mode; the model's training flag is put back.

    Args:
        model: the whole classifier.
        head: its head.
        batches: inputs of the model, each with "indices", the row numbers of its samples; labels are ignored.
        num_samples: N, over all processes.
        prepare: moves a batch to the model's device.

    Returns:
        float32 on the CPU, N x D; under torch.distributed each process computes the rows it is given, and every
        process gets all of them.
    """
    was_training = model.training
    model.eval()
    features_ND = torch.zeros(num_samples, head.num_features)
    try:
        for batch in batches:
            rows = batch.pop("indices")
            batch.pop("labels", None)
            with head.tap() as tapped:
                model(**prepare(batch))
            features_ND[rows] = tapped.features.float().cpu()
    finally:
        model.train(was_training)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # every row is computed by one process and zero elsewhere, so the sum is exact
        on_device = features_ND.to(next(model.parameters()).device)
        torch.distributed.all_reduce(on_device)
        features_ND = on_device.cpu()
    return features_ND


@contextmanager
def features_as_inputs(model: nn.Module, head: ClassifierHead) -> Iterator[None]:
    """Inside, `model(pooled_features=...)` runs the head alone, with the dropout that the model has in front of it.

    The model stays one object, whatever wraps it, and raw inputs still take the usual way.
    """
    raw_forward = model.forward
    had_own = "forward" in vars(model)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if FEATURES not in kwargs:
            return raw_forward(*args, **kwargs)
        features_ND = kwargs[FEATURES]
        if head.input_dropout:
            features_ND = nn.functional.dropout(features_ND, head.input_dropout, model.training)
        return {"logits": head.mixed_logits(features_ND)}

    model.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if had_own:
            model.forward = raw_forward  # type: ignore[method-assign]
        else:
            del model.forward


def collate_features(examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batch examples of a `FeatureDataset`."""
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}

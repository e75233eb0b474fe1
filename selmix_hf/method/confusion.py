"""Confusion counts and class centroids of a validation set: accumulate, sum over processes, smooth.

Rows are true classes, columns predicted ones. Counts are integers and are summed as integers, so that any split of the
samples over batches and processes gives the same matrix.

Shape suffixes: N samples, K classes, D features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ABSENT = ("refuse", "leave out")  # what becomes of a class without samples


def confusion_counts(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Count (true, predicted) pairs.

    Args:
        labels: true classes, integers, shape N.
        predictions: predicted classes (integers, shape N) or scores (shape N x K; the largest wins).
        num_classes: K.

    Returns:
        int64 counts, shape K x K.

    Raises:
        ValueError: a label or a prediction is outside 0..K-1, or they are not integers, or not equally many; scores of
            another number of classes, or without a largest one (`predicted_classes`).
    """
    if predictions.ndim == 2:
        if predictions.shape[1] != num_classes:
            column = predictions.shape[1] == 1
            scores = predictions.is_floating_point()
            hint = "A single logit tells two classes apart: give the model two outputs, or pass (logits[:, 0] > 0)."
            raise ValueError(
                f"predictions must be classes (N) or scores of {num_classes} classes (N x {num_classes}), found "
                f"{predictions.dtype} of shape {tuple(predictions.shape)}."
                f"{column * (' ' + (hint if scores else 'Pass the column itself, predictions[:, 0].'))}"
            )
        predictions = predicted_classes(predictions, labels=labels)
    for what, values_N in (("labels", labels), ("predictions", predictions)):
        if values_N.is_floating_point() or values_N.is_complex():
            raise ValueError(f"{what} must be integers, found {values_N.dtype}; convert class names to indices first.")
    labels, predictions = labels.long(), predictions.long()  # torch has no minimum of uint16, uint32 and uint64
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"found labels of shape {tuple(labels.shape)}, but {tuple(predictions.shape)} predictions.")
    for what, values_N in (("label", labels), ("prediction", predictions)):
        if values_N.numel() and not 0 <= int(values_N.min()) <= int(values_N.max()) < num_classes:
            raise ValueError(
                f"every {what} must lie in 0..{num_classes - 1} for {num_classes} classes, "
                f"found {int(values_N.min())}..{int(values_N.max())}."
            )
    cells_N = labels * num_classes + predictions
    return torch.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def sum_dtype(device: torch.device | str) -> torch.dtype:
    """What sums are kept in on a device: float64, or float32 where there is none."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The tensor, in place its sum over the processes of torch.distributed, if there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def predicted_classes(scores: Tensor, rows: Any = None, labels: Any = None) -> Tensor:
    """The class of the largest score, int64, shape N; of equal ones the first.

    Args:
        scores: N x K; minus infinity is a class that is left out.
        rows: numbers of the samples (N), for the error; default 0 to N - 1.
        labels: their classes (N), for the error.

    Raises:
        ValueError: rows without a largest score: NaN is in them, all are minus infinity, or several plus infinity.
    """
    classes_N = scores.argmax(-1)
    if not scores.is_floating_point() or not len(scores):
        return classes_N
    largest_N1 = scores.gather(1, classes_N[:, None])
    undecided_N = ~largest_N1.isfinite()[:, 0]  # a NaN is the largest of its row
    if bool(undecided_N.any()):
        undecided_N &= ~((largest_N1 == torch.inf) & ((scores == torch.inf).sum(1, keepdim=True) == 1))[:, 0]
        if bool(undecided_N.any()):
            first = int(undecided_N.int().argmax())
            found = ", ".join(f"{score:g}" for score in scores[first, :5].tolist())
            sample = f"sample {first if rows is None else int(rows[first])}"
            sample += "" if labels is None else f" of class {int(labels[first])}"
            raise ValueError(
                f"{int(undecided_N.sum())} of {len(scores)} rows of scores have no largest one, the first is that of "
                f"{sample}: {found}{', ...' * (scores.shape[1] > 5)}. NaN "
                "in logits comes from weights or inputs that are not finite, or from half precision: look there first."
            )
    return classes_N


class ClassStatistics:
    """Confusion counts, feature sums and loss over a set of samples, accumulated batch by batch.

    Args:
        num_classes: K.
        num_features: D; 0 where only the counts are wanted.
        device: where the sums are kept.

    Attributes:
        counts: int64, K x K.
        feature_sums: float64, K x D (float32 where the device has no float64).
        loss_sum: float, the sum of the samples' cross entropies, when losses were given.
    """

    def __init__(self, num_classes: int, num_features: int = 0, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        dtype = sum_dtype(device)
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
        self.feature_sums = torch.zeros(num_classes, num_features, dtype=dtype, device=device)
        self.loss_sum = torch.zeros((), dtype=dtype, device=device)

    @torch.no_grad()
    def update(self, labels: Tensor, predictions: Tensor, features: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            labels: integers, shape N.
            predictions: classes (shape N) or logits (shape N x K, which also add to the loss).
            features: the pooled features that enter the head, shape N x D.
        """
        self.counts += confusion_counts(labels, predictions, self.num_classes)
        if predictions.ndim == 2:
            loss = torch.nn.functional.cross_entropy(predictions.float(), labels.long(), reduction="sum")
            self.loss_sum += loss.to(self.loss_sum.dtype)
        if features is not None:
            self.feature_sums.index_add_(0, labels.long(), features.to(self.feature_sums.dtype))

    def all_reduce(self) -> ClassStatistics:
        """Sum over the processes of torch.distributed, if there are several, and return self."""
        for tensor in (self.counts, self.feature_sums, self.loss_sum):
            sum_over_processes(tensor)
        return self

    @property
    def class_counts(self) -> Tensor:
        """Samples of each class, int64, shape K."""
        return self.counts.sum(1)

    @property
    def num_samples(self) -> int:
        """All that were counted."""
        return int(self.counts.sum())

    @property
    def mean_loss(self) -> float:
        """Cross entropy a sample; 0 where no losses were given."""
        return float(self.loss_sum) / max(self.num_samples, 1)

    @property
    def centroids(self) -> Tensor:
        """Mean feature of each class, shape K x D. A class without samples is an error: see `require_all_classes`."""
        require_all_classes(self.class_counts)
        return self.feature_sums / self.class_counts[:, None]


def as_counts(counts: Any, whole: bool = True) -> Tensor:
    """A confusion matrix of counts (K x K, rows true classes) as a tensor, from one, an array, lists, or what
    scikit-learn's `confusion_matrix` gives; integers as int64.

    Raises:
        ValueError: not square, negative, or where they must be `whole` other than integers.
    """
    expected = "counts must be those of a confusion matrix, K x K integers from 0 up with a row for each true class; "
    try:
        found = counts if isinstance(counts, Tensor) else np.asarray(counts)
    except ValueError as error:
        raise ValueError(f"{expected}found rows of several lengths.") from error
    kind = str(found.dtype).removeprefix("torch.")
    integer = kind.startswith(("int", "uint"))
    square = len(found.shape) == 2 and found.shape[0] == found.shape[1] > 0
    if square and integer:  # as int64 first: torch compares no uint16, uint32 and uint64
        found = found.long() if isinstance(found, Tensor) else found.astype(np.int64)
    if not square or not (integer or (not whole and kind.startswith("float"))) or bool((found < 0).any()):
        least = f" with {found.min()}" if square and integer else ""
        raise ValueError(f"{expected}found {kind} of shape {tuple(found.shape)}{least}.")
    if isinstance(found, Tensor):
        return found
    return torch.from_numpy(found if integer else found.astype(np.float64))


def measured_classes(class_counts: Tensor, absent: str = "refuse", class_names: Sequence[str] | None = None) -> Tensor:
    """Mask (bool, K) of the classes that numbers are of: those with samples.

    Args:
        class_counts: samples of each class, K.
        absent: what becomes of a class without samples: "refuse", or "leave out" of every mean, minimum and count.
        class_names: K, for the error; default their numbers.

    Raises:
        ValueError: such classes where they are refused, no sample at all, or another word for `absent`.
    """
    if absent not in ABSENT:
        raise ValueError(f"absent must be 'refuse' or 'leave out', found {absent!r}.")
    measured_K = class_counts > 0
    if absent == "refuse":
        advice = "add samples of these classes, or pass absent='leave out' for numbers of the other classes alone"
        require_all_classes(class_counts, class_names, advice=advice)
    elif not bool(measured_K.any()):
        raise ValueError("the set has no sample of any class.")
    return measured_K


def require_all_classes(
    class_counts: Tensor,
    class_names: Sequence[str] | None = None,
    where: str = "the set",
    advice: str = "add samples of these classes, or leave the classes out",
) -> None:
    """Raise ValueError naming the classes that have no sample."""
    missing = torch.nonzero(class_counts == 0).flatten().tolist()
    if missing:
        named = [repr(class_names[k]) if class_names else str(k) for k in missing[:10]]
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise ValueError(
            f"{where} has no sample of {len(missing)} of {len(class_counts)} classes: {', '.join(named)}{more}. "
            f"Every class needs one at least: {advice}."
        )


def distinct_names(class_names: Iterable[object]) -> list[str]:
    """The names, those that several classes share with the class's number behind: ImageNet has two cranes."""
    names = [str(name) for name in class_names]
    often = {name for name, times in Counter(names).items() if times > 1}
    return [f"{name} ({k})" if name in often else name for k, name in enumerate(names)]


def resolve_class_prior(class_prior: str | Tensor | Sequence[float], class_counts: Tensor) -> Tensor:
    """The prior pi over true classes, float64, shape K.

    Args:
        class_prior: "validation" (pi_k = n_k / N), "balanced" (1/K), or K positive weights (normalised here).
        class_counts: n_k (or frequencies), shape K.
    """
    if isinstance(class_prior, str):
        if class_prior == "validation":
            return class_counts.double() / class_counts.sum()
        if class_prior == "balanced":
            return torch.full_like(class_counts, 1.0 / len(class_counts), dtype=torch.float64)
        raise ValueError(f"class_prior must be 'validation', 'balanced' or a vector, found {class_prior!r}.")
    prior = torch.as_tensor(class_prior, dtype=torch.float64, device=class_counts.device)
    if prior.shape != class_counts.shape or not bool((prior > 0).all()) or not bool(prior.isfinite().all()):
        raise ValueError(
            f"class_prior must hold {len(class_counts)} positive numbers, one a class, found shape "
            f"{tuple(prior.shape)} with smallest value {float(prior.min()) if prior.numel() else None}."
        )
    return prior / prior.sum()


def confusion_matrix(
    counts: Any, class_prior: str | Tensor | Sequence[float] = "validation", absent: str = "refuse"
) -> Tensor:
    """The raw confusion matrix C of counts: rows sum to the prior, the whole to 1; float64, K x K.

    Nothing is smoothed: this is the matrix of every reported number.

    Args:
        counts: K x K integers, see `as_counts`.
        class_prior: see `resolve_class_prior`.
        absent: see `measured_classes`; the row of a class that is left out is 0, and the prior is that of the others.

    Raises:
        ValueError: see `as_counts`, `measured_classes` and `resolve_class_prior`.
    """
    counts_KK = as_counts(counts)
    sizes_K = counts_KK.sum(1)
    measured_K = measured_classes(sizes_K, absent)
    prior_K = resolve_class_prior(class_prior, sizes_K)
    if not bool(measured_K.all()):
        prior_K = prior_K * measured_K
        prior_K /= prior_K.sum()
    return prior_K[:, None] * counts_KK.double() / sizes_K.clamp(min=1)[:, None]


def smooth_confusion(
    counts: Any, class_prior: str | Tensor | Sequence[float] = "validation", strength: float = 1.0
) -> Tensor:
    """The smoothed confusion matrix that gradients and multipliers are computed from; never a reported number.

    Half a sample is added to a class's hits and half a sample is spread over its K - 1 kinds of miss, so that a class
    with zero recall keeps a finite gradient that counts, at any K; rows are then scaled to the prior, which stays
    exact.

    Args:
        counts: K x K counts, zeros included, or sums of shares; see `as_counts`.
        class_prior: see `resolve_class_prior`.
        strength: samples added to each row.

    Returns:
        float64, K x K, all entries positive, summing to 1.
    """
    counts_KK = as_counts(counts, whole=False)
    require_all_classes(counts_KK.sum(1))
    prior_K = resolve_class_prior(class_prior, counts_KK.sum(1))
    smoothed_KK = counts_KK.double() + strength / 2 / max(len(counts_KK) - 1, 1)
    smoothed_KK.diagonal().copy_(counts_KK.diagonal().double() + strength / 2)
    totals_K1 = smoothed_KK.sum(1, keepdim=True)
    return smoothed_KK.mul_(prior_K[:, None]).div_(totals_K1)  # in place: at many classes memory is what takes time

"""How well the gains predict what a step does: predicted against realised change of the objective, pair by pair.

The gain (SelMix, arXiv 2403.18301, theorem 1) is a first-order prediction with two approximations: the objective is
linear in a small step, and the confusion matrix moves as if every sample stood at its class's centroid, with an error
that grows with the within-class variance of the features. Here the step is taken and the change is measured.

Shape suffixes: M pairs of classes, B mixes a pair, N samples, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from selmix_hf.method.confusion import confusion_counts, require_all_classes, resolve_class_prior, smooth_confusion
from selmix_hf.method.draws import ClassIndex, draw_class_pairs
from selmix_hf.method.objectives import Objective

_DOUBLE_UP_TO = 256  # classes
_AT_ONCE = 2**18  # logits, so that what is in between stays in the processor's cache
_ROWS = 4096  # samples whose features are looked at together
_REALISED = ("centroid", "soft", "hard")


@dataclass(frozen=True)
class GainFidelity:
    """Predicted and realised change of the Lagrangian at fixed multipliers, one entry a pair of classes.

    Attributes:
        pairs: (label kept, mixed in), int64, M x 2.
        step_size: of the step.
        predicted: step_size * G_ij, float64, M.
        centroid: change of the smoothed confusion matrix that G is taken at, whose rows pi_k softmax(C~_k) move by the
            logits of their centroid: what the theorem has, without its linear approximation.
        soft: change of the soft confusion matrix, pi_k times the mean softmax of the samples of class k.
        hard: change of the confusion counts, smoothed as for G (`confusion.smooth_confusion`).
        within_class_variance: mean squared distance to the own centroid, mean over classes.
        between_class_variance: mean squared distance of the centroids to their mean.
    """

    pairs: Tensor
    step_size: float
    predicted: Tensor
    centroid: Tensor
    soft: Tensor
    hard: Tensor
    within_class_variance: float
    between_class_variance: float

    @property
    def variance_ratio(self) -> float:
        """Within-class over between-class variance, which no scale of the features changes."""
        return self.within_class_variance / self.between_class_variance if self.between_class_variance else math.inf

    def rank_correlation(self, realised: str) -> float:
        """Spearman's, of "centroid", "soft" or "hard" with the prediction; nan where either is constant."""
        return rank_correlation(self.predicted, getattr(self, realised))

    def slope(self, realised: str) -> float:
        """Least squares of realised on predicted through the origin, as no step means no change; nan where every
        prediction is 0. 1: as predicted; below: less happens than predicted."""
        square = float(self.predicted.square().sum())
        return float((self.predicted * getattr(self, realised)).sum()) / square if square else math.nan

    def report(self) -> dict[str, float]:
        """Numbers for a log, those that are not defined left out."""
        numbers = {"step": self.step_size, "largest_predicted": float(self.predicted.abs().max())}
        for name in _REALISED:
            numbers |= {f"{name}_rank": self.rank_correlation(name), f"{name}_slope": self.slope(name)}
        numbers |= {"within_class_variance": self.within_class_variance, "variance_ratio": self.variance_ratio}
        return {f"gain_fidelity_{name}": value for name, value in numbers.items() if math.isfinite(value)}


def gain_fidelity(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    objective: Objective,
    gain: Tensor,
    pairs: Tensor,
    mixes: Tensor,
    step_size: float,
    *,
    multipliers: Mapping[str, Tensor] | None = None,
    feature_step: float = 1.0,
    bias_step: float | None = None,
) -> GainFidelity:
    """Take, for each pair (i, j), one step of gradient descent of the head on its mixes with label i, from the same
    weights each time, and measure what becomes of the Lagrangian.

    Args:
        features: of the gain set, N x D; every class must be there.
        labels: N.
        weight: the head's W, K x D.
        bias: K, or None.
        objective: psi.
        gain: G, K x K.
        pairs: M x 2, see `choose_pairs`.
        mixes: mixed features of each pair, M x B x D, see `centroid_mixes` and `drawn_mixes`; the step follows the
            mean gradient over B.
        step_size: eta, a learning rate.
        multipliers: those that G was taken with; the objective's initial ones if not given.
        feature_step, bias_step: of the head, see `gain.gain_matrix`.

    Raises:
        ValueError: shapes that do not fit, or a step size that is not positive.
    """
    num_classes, num_features = weight.shape
    if features.shape != (len(labels), num_features) or mixes.ndim != 3 or mixes.shape[2] != num_features:
        raise ValueError(
            f"features must be {len(labels)} x {num_features} and mixes M x B x {num_features}, found "
            f"{tuple(features.shape)} and {tuple(mixes.shape)}."
        )
    if gain.shape != (num_classes, num_classes) or pairs.shape != (len(mixes), 2):
        raise ValueError(
            f"expected a gain of {num_classes} x {num_classes} and pairs of {len(mixes)} x 2 beside them, found "
            f"{tuple(gain.shape)} and {tuple(pairs.shape)}."
        )
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive, found {step_size}.")
    if multipliers is None:
        multipliers = objective.initial_multipliers(num_classes)
    if bias_step is None:
        bias_step = 0.0 if bias is None else 1.0
    weight, mixes, labels = weight.to(features), mixes.to(features), labels.to(features.device).long()
    offset = 0.0 if bias is None else bias.to(features)
    # an error of the logits is the same before and after: only what follows the head needs double precision
    dtype = torch.float64 if num_classes <= _DOUBLE_UP_TO else features.dtype
    step = max(1, _AT_ONCE // num_classes)
    chunks = [slice(at, at + step) for at in range(0, len(labels), step)]
    logits = [(features[rows] @ weight.T + offset).to(dtype) for rows in chunks]
    centroids_KD = class_centroids(features, labels, num_classes)
    size_K = labels.bincount(minlength=num_classes)
    prior_K1 = resolve_class_prior(objective.class_prior, size_K)[:, None]

    def looked(moved: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
        """Soft confusion matrix, and counts, where the logits move."""
        sums_KK = torch.zeros(num_classes, num_classes, dtype=dtype, device=features.device)
        counts_KK = torch.zeros_like(sums_KK, dtype=torch.long)
        for rows, logits_RK in zip(chunks, logits, strict=True):
            after_RK = logits_RK if moved is None else logits_RK + moved(features[rows])
            counts_KK += confusion_counts(labels[rows], after_RK, num_classes)
            sums_KK.index_add_(0, labels[rows], after_RK.softmax(1))
        return prior_K1 * sums_KK / size_K[:, None], counts_KK

    def value(confusion_KK: Tensor) -> float:
        return float(objective.lagrangian(confusion_KK.cpu(), multipliers))

    soft_KK, counts_KK = looked(None)
    smoothed_KK = smooth_confusion(counts_KK, objective.class_prior)
    soft_value, smoothed_value = value(soft_KK), value(smoothed_KK)
    realised = []
    for (i, _), mixes_BD in zip(pairs.tolist(), mixes, strict=True):
        residual_BK = -(mixes_BD @ weight.T + offset).softmax(1)
        residual_BK[:, i] += 1
        residual_BK *= step_size / len(mixes_BD)
        moved = partial(_moved, mixes_BD, residual_BK, feature_step, bias_step)
        centroid_KK = prior_K1 * (smoothed_KK.log() + moved(centroids_KD)).softmax(1)
        soft_KK, counts_KK = looked(moved)
        hard_KK = smooth_confusion(counts_KK, objective.class_prior)
        realised.append(
            [value(centroid_KK) - smoothed_value, value(soft_KK) - soft_value, value(hard_KK) - smoothed_value]
        )
    centroid_M, soft_M, hard_M = torch.tensor(realised, dtype=torch.float64).T
    predicted_M = step_size * gain.cpu().double()[pairs[:, 0], pairs[:, 1]]
    within, between = class_variances(features, labels, centroids_KD)
    return GainFidelity(pairs, step_size, predicted_M, centroid_M, soft_M, hard_M, within, between)


def _moved(mixes_BD: Tensor, residual_BK: Tensor, feature_step: float, bias_step: float, at_ND: Tensor) -> Tensor:
    """How the logits at some features move where the head takes the step."""
    change_NK: Tensor = torch.linalg.multi_dot([at_ND, mixes_BD.T, residual_BK])
    return change_NK.mul_(feature_step).add_(residual_BK.sum(0), alpha=bias_step)


def class_centroids(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class, K x D; every class must be there."""
    size_K = labels.bincount(minlength=num_classes)
    require_all_classes(size_K)
    sums_KD = features.new_zeros(num_classes, features.shape[1], dtype=torch.float64)
    for rows in torch.split(torch.arange(len(labels), device=labels.device), _ROWS):
        sums_KD.index_add_(0, labels[rows], features[rows].double())
    return (sums_KD / size_K[:, None]).to(features)


def class_variances(features: Tensor, labels: Tensor, centroids: Tensor) -> tuple[float, float]:
    """Mean squared distance of features (N x D) to the centroid (K x D) of their own class, mean over classes; and of
    the centroids to their mean."""
    squares_K = torch.zeros(len(centroids), dtype=torch.float64, device=features.device)
    for rows in torch.split(torch.arange(len(labels), device=labels.device), _ROWS):
        square_R = (features[rows] - centroids[labels[rows]]).square().sum(1)
        squares_K.index_add_(0, labels[rows], square_R.double())
    within = (squares_K / labels.bincount(minlength=len(centroids))).mean()
    between = (centroids - centroids.mean(0)).square().sum(1).mean()
    return float(within), float(between)


def choose_pairs(num_classes: int, num_pairs: int, probability: Tensor | None = None, seed: int = 0) -> Tensor:
    """Pairs of classes to look at, int64, M x 2: all K^2 of them where `num_pairs` allows it; else half by P (K x K),
    which training draws from, and the others uniform, none twice."""
    if num_classes**2 <= num_pairs:
        return torch.cartesian_prod(torch.arange(num_classes), torch.arange(num_classes)).reshape(-1, 2)
    generator = np.random.default_rng(seed)
    flat = generator.integers(num_classes**2, size=2 * num_pairs)
    if probability is not None:
        drawn_M2 = draw_class_pairs(probability, num_pairs // 2, generator)
        flat = np.concatenate([drawn_M2 @ [num_classes, 1], flat])
    chosen_M = torch.from_numpy(flat[np.sort(np.unique(flat, return_index=True)[1])][:num_pairs])
    return torch.stack([chosen_M // num_classes, chosen_M % num_classes], 1)


def centroid_mixes(centroids: Tensor, pairs: Tensor, beta: float = 0.8) -> Tensor:
    """The one mix of each pair that the theorem has, beta z_i + (1 - beta) z_j: M x 1 x D from centroids K x D."""
    first_M, second_M = pairs.to(centroids.device).unbind(1)
    return torch.lerp(centroids[second_M], centroids[first_M], beta)[:, None]


def drawn_mixes(
    features: Tensor, labels: Tensor, pairs: Tensor, num_mixes: int = 64, beta_min: float = 0.6, seed: int = 0
) -> Tensor:
    """A batch of mixes of each pair as training draws it, beta ~ U[beta_min, 1]: M x B x D.

    Args:
        features: of training samples, N x D.
        labels: N; every class of the pairs must be there.
        num_mixes: B.
    """
    generator = np.random.default_rng(seed)
    index = ClassIndex(labels.cpu(), int(max(labels.max(), pairs.max())) + 1)
    shape = (len(pairs), num_mixes)
    first, second = (
        features[torch.from_numpy(index.draw(np.repeat(side, num_mixes), generator)).to(features.device)]
        for side in pairs.numpy().T
    )
    beta = torch.from_numpy(generator.uniform(beta_min, 1, (len(first), 1))).to(features)
    return torch.lerp(second, first, beta).reshape(*shape, -1)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two vectors, ties at their mean rank; nan where one is constant."""
    ranks = []
    for values_M in (first, second):
        _, place_M, times = torch.unique(values_M, return_inverse=True, return_counts=True)
        ranks.append((times.cumsum(0) - (times - 1) / 2)[place_M].double())
    centred = [rank_M - rank_M.mean() for rank_M in ranks]
    return float(centred[0] @ centred[1] / (centred[0].norm() * centred[1].norm()))

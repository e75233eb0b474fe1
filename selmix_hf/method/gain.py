"""How much an objective gains from mixing class i (label kept) with class j: the derivative D and the gain matrix G.

SelMix (arXiv 2403.18301), theorem 1 and its gain, here with the head's bias, true priors, and the label term's own
mixed feature. Shape suffixes: K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from selmix_hf.method.confusion import resolve_class_prior, smooth_confusion
from selmix_hf.method.finite import all_finite, first_not_finite
from selmix_hf.method.objectives import Objective

_SMALLEST_DENOMINATOR = 1e-30
_EXACT_UP_TO = 256  # classes
_UNBLOCKED_UP_TO, _BLOCK = 4096, 512  # classes


class LinearHead(Protocol):
    """What is asked of a head, such as `models.head.ClassifierHead`: logits = features @ weight.T + bias.

    Attributes:
        num_classes: K.
        weight: K x D, detached.
        bias: K, detached, or None.
        feature_step, bias_step: one SGD step of size 1 on the cross entropy at feature z moves the logits at z' by
            (feature_step * z.z' + bias_step) (e - p); 1 and 1 for one linear layer.
    """

    num_classes: int
    feature_step: float
    bias_step: float

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...


def metric_gradient(
    objective: Objective,
    confusion: Any,
    num_samples: int | None = None,
    multipliers: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Derivative of the objective with respect to the logits C~ of its confusion matrix, C_k = pi_k softmax(C~_k).

    D_kl = C_kl (Psi_kl - sum_m Psi_km C_km / pi_k) with Psi = d L / d C from autograd, at the smoothed C
    (`confusion.smooth_confusion`), where C~ = log C.

    Args:
        objective: from `objective_names.get_objective`.
        confusion: counts (integers, K x K, rows true classes; a tensor, an array or lists), or frequencies that sum to
            1.
        num_samples: the number of samples behind frequencies; counts need none, and one that differs is refused.
        multipliers: of the objective; its initial ones if not given.

    Returns:
        float64, K x K; rows sum to 0.

    Raises:
        ValueError: not square, negative, neither counts nor frequencies, a class without samples, or a derivative
            that is not finite.
    """
    counts_KK = _as_counts(confusion, num_samples)
    smoothed_KK = smooth_confusion(counts_KK, objective.class_prior)
    prior_K = resolve_class_prior(objective.class_prior, counts_KK.sum(1))
    return gradient_at(objective, smoothed_KK, prior_K, multipliers)


def gradient_at(
    objective: Objective, smoothed_KK: Tensor, prior_K: Tensor, multipliers: Mapping[str, Tensor] | None
) -> Tensor:
    """`metric_gradient` at a confusion matrix that is smoothed already, whose rows sum to the prior."""
    psi_KK = lagrangian_derivative(objective, smoothed_KK, multipliers)
    return smoothed_KK * (psi_KK - (psi_KK * smoothed_KK).sum(1, keepdim=True) / prior_K[:, None])


def lagrangian_derivative(
    objective: Objective, confusion_KK: Tensor, multipliers: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Psi = d L / d C from autograd, K x K, at a confusion matrix that is smoothed already.

    Raises:
        ValueError: the objective does not map the matrix to one number, or the derivative is not finite.
    """
    if multipliers is None:
        multipliers = objective.initial_multipliers(len(confusion_KK))
    with torch.enable_grad():
        leaf_KK = confusion_KK.clone().requires_grad_()
        value = objective.lagrangian(leaf_KK, multipliers)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(
                f"objective {objective.name!r} must map the confusion matrix to one number by differentiable torch "
                f"operations, found {type(value).__name__}"
                + (f" of shape {tuple(value.shape)}." if isinstance(value, Tensor) else ".")
            )
        (psi_KK,) = torch.autograd.grad(value.sum(), leaf_KK)
    if not all_finite(psi_KK):
        raise ValueError(
            f"the derivative of objective {objective.name!r} is not finite at the current confusion matrix."
        )
    return psi_KK


def _as_counts(given: Any, num_samples: int | None) -> Tensor:
    confusion = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or bool((confusion < 0).any()):
        raise ValueError(f"confusion must be square and non-negative, found shape {tuple(confusion.shape)}.")
    total = float(confusion.sum(dtype=torch.float64))
    if confusion.is_floating_point():
        if abs(total - 1) < 1e-3:
            if num_samples is None or num_samples < 1:
                raise ValueError("confusion holds frequencies: give num_samples, the number of samples behind them.")
            return confusion.double() / total * num_samples
        if not bool((confusion == confusion.round()).all()):
            raise ValueError(
                f"confusion must hold counts, or frequencies that sum to 1; found fractions summing to {total:.6g}."
            )
    if num_samples is not None and num_samples != total:
        raise ValueError(f"the counts hold {total:.0f} samples, but num_samples is {num_samples}.")
    return confusion


def gain_matrix(
    centroids: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    metric_gradient: Tensor,
    beta: float | Sequence[float] = 0.8,
    *,
    feature_step: float = 1.0,
    bias_step: float | None = None,
    block_size: int | None = None,
) -> Tensor:
    """Gain of the objective from one unit SGD step of the head on the (i, j) mixup, for all K x K pairs at once.

    With z_ij = beta z_i + (1 - beta) z_j and p_ij = softmax(W z_ij + b),

        G_ij = sum_kl D_kl (e_i - p_ij)_l ([z_ij, 1] . [z_k, 1]).

    The softmax factorises over i and j, so the whole takes three K x K x K products; a class's own probability is
    taken out of the sum, which stays exact in float32 where p_ij is nearly e_i and e_i - p_ij would cancel.

    Args:
        centroids: mean features z of the classes, K x D.
        weight: the head's W, K x D.
        bias: the head's b, shape K, or None for a head without one.
        metric_gradient: D, K x K, from `metric_gradient`.
        beta: share of class i in the mix; a pair (low, high) takes the expectation over beta ~ U[low, high] by eight
            Gauss-Legendre nodes (eight on either side of 1/2 when low < 1/2 < high).
        feature_step: coefficient of z . z' in a unit step; 1/4 for a head that averages two linear layers.
        bias_step: coefficient of the bias in a unit step; default 1 with a bias, 0 without; 1/2 for two layers.
        block_size: rows computed at a time; default all up to 4,096 classes, and 512 beyond. With blocks the memory
            beyond the inputs is below five K x K matrices, G among them; without, nine.

    Returns:
        G, K x K, row i the class whose label is kept, in centroids' dtype.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, beta outside [0, 1].
    """
    _check_gain_inputs(centroids, weight, bias, metric_gradient=metric_gradient)
    metric_gradient = metric_gradient.to(centroids)
    direction_KD = (centroids.T @ metric_gradient).T
    return gain_along(
        centroids,
        weight,
        bias,
        direction_KD,
        metric_gradient.sum(0),
        beta,
        feature_step=feature_step,
        bias_step=bias_step,
        block_size=block_size,
    )


def gain_along(
    centroids: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    direction: Tensor,
    bias_direction: Tensor,
    beta: float | Sequence[float] = 0.8,
    *,
    feature_step: float = 1.0,
    bias_step: float | None = None,
    block_size: int | None = None,
) -> Tensor:
    """Gain of any function of the head from one unit SGD step on the (i, j) mixup, for all K x K pairs at once:

        G_ij = (e_i - p_ij)^T (M z_ij + m)

    with M and m the function's derivatives by the head's weight and bias. `gain_matrix` is the case M = D^T Z,
    m = D^T 1; `soft_gain` has the derivative of the soft confusion matrix.

    Args:
        direction: M, K x D.
        bias_direction: m, shape K.
        centroids, weight, bias, beta, feature_step, bias_step, block_size: as for `gain_matrix`.

    Returns:
        G, K x K, row i the class whose label is kept, in centroids' dtype.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, beta outside [0, 1].
    """
    _check_gain_inputs(centroids, weight, bias, direction=direction, bias_direction=bias_direction)
    dtype = centroids.dtype
    weight, direction, bias_direction = (t.to(centroids) for t in (weight, direction, bias_direction))
    logits_KK = centroids @ weight.T
    if bias is not None:
        logits_KK += bias.to(centroids)
    if bias_step is None:
        bias_step = 0.0 if bias is None else 1.0
    # A_il: what a unit step towards class l at z_i does to the objective
    alignment_KK = feature_step * (centroids @ direction.T)
    if bias_step:
        alignment_KK += bias_step * bias_direction
    logits_KK -= logits_KK.amax(1, keepdim=True)

    gain_KK = torch.zeros_like(logits_KK)
    block = block_size or (len(gain_KK) if len(gain_KK) <= _UNBLOCKED_UP_TO else _BLOCK)
    for node, share in _beta_nodes(beta):
        _add_gain(gain_KK, logits_KK, alignment_KK, node, share, block)
    if not all_finite(gain_KK):
        raise ValueError(
            f"the gain is not finite: the head's logits at the centroids overflow, first for class "
            f"{first_not_finite(gain_KK)}; check the features."
        )
    return gain_KK.to(dtype)


def head_gain(
    head: LinearHead, centroids: Tensor, metric_gradient: Tensor, beta: float | Sequence[float] = 0.8
) -> Tensor:
    """`gain_matrix` for the current weights of a head: in float64 up to 256 classes, where it costs nothing, and in
    float32 on the head's device beyond.

    Args:
        head: its step coefficients are taken along.
        centroids: K x D.
        metric_gradient: D, K x K.
        beta: see `gain_matrix`.

    Returns:
        float32, K x K.
    """
    weight, bias, centroids, metric_gradient = _precise(head, centroids, metric_gradient)
    steps: dict[str, Any] = {"feature_step": head.feature_step, "bias_step": head.bias_step}
    return gain_matrix(centroids, weight, bias, metric_gradient, beta, **steps).float()


def head_gain_along(
    head: LinearHead,
    centroids: Tensor,
    direction: Tensor,
    bias_direction: Tensor,
    beta: float | Sequence[float] = 0.8,
) -> Tensor:
    """`gain_along` for the current weights of a head, as `head_gain`; float32, K x K."""
    weight, bias, centroids, *directions = _precise(head, centroids, direction, bias_direction)
    steps: dict[str, Any] = {"feature_step": head.feature_step, "bias_step": head.bias_step}
    return gain_along(centroids, weight, bias, directions[0], directions[1], beta, **steps).float()


def _precise(head: LinearHead, *tensors: Tensor) -> list[Any]:
    """Weight and bias of the head, and the tensors, in the precision and on the device of its gains."""
    exact = head.num_classes <= _EXACT_UP_TO
    dtype, device = (torch.float64, torch.device("cpu")) if exact else (torch.float32, head.weight.device)
    return [None if t is None else t.to(device, dtype) for t in (head.weight, head.bias, *tensors)]


def _add_gain(gain_KK: Tensor, logits_KK: Tensor, align_KK: Tensor, beta: float, share: float, block: int) -> None:
    """gain_KK += share * (gain at one beta)."""
    second_KK = torch.mul(logits_KK, 1 - beta).exp_()
    own_align_K = align_KK.diagonal()
    for start in range(0, len(gain_KK), block):
        rows = slice(start, start + block)
        first_RK = torch.mul(logits_KK[rows], beta).exp_()
        diagonal_R = first_RK.diagonal(start).clone()
        first_RK.diagonal(start).zero_()
        others_RK = first_RK @ second_KK.T
        top_RK = torch.empty_like(others_RK)
        for columns in (slice(at, at + block) for at in range(0, len(gain_KK), block)):
            top_RK[:, columns] = first_RK @ (second_KK[columns] * align_KK[columns]).T
        top_RK.addcmul_(align_KK.T[rows], others_RK, value=-1).mul_(1 - beta)
        first_RK *= align_KK[rows] - own_align_K[rows, None]
        top_RK.addmm_(first_RK, second_KK.T, alpha=beta)
        others_RK.addcmul_(diagonal_R[:, None], second_KK.T[rows])  # the denominator: all classes
        # where every exponential underflows, the pair is recomputed from its logits
        if float(others_RK.min()) < _SMALLEST_DENOMINATOR:
            for pairs_P2 in torch.split(torch.nonzero(others_RK < _SMALLEST_DENOMINATOR), 4096):
                row_P, j_P = pairs_P2.unbind(1)
                top_RK[row_P, j_P] = _lost_gain(logits_KK, align_KK, beta, row_P + start, j_P).to(top_RK)
                others_RK[row_P, j_P] = 1
        gain_KK[rows].addcdiv_(top_RK, others_RK, value=-share)


def _lost_gain(logits_KK: Tensor, align_KK: Tensor, beta: float, i_P: Tensor, j_P: Tensor) -> Tensor:
    """Minus the gain of single pairs, from a log-sum-exp in float64."""
    prob_PK = torch.softmax(beta * logits_KK[i_P].double() + (1 - beta) * logits_KK[j_P].double(), 1)
    align_PK = beta * align_KK[i_P].double() + (1 - beta) * align_KK[j_P].double()
    own_P1 = align_PK.gather(1, i_P[:, None])
    return (prob_PK * (align_PK - own_P1)).sum(1)


def _beta_nodes(beta: float | Sequence[float]) -> list[tuple[float, float]]:
    """(node, share) pairs whose shares sum to 1."""
    low, high = (beta, beta) if isinstance(beta, (int, float)) else (float(b) for b in beta)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"beta must lie in [0, 1], as a number or as (low, high), found {beta}.")
    if low == high:
        return [(low, 1.0)]
    # the gain bends where the two classes weigh the same
    edges = [low, 0.5, high] if low < 0.5 < high else [low, high]
    nodes, shares = np.polynomial.legendre.leggauss(8)
    return [
        (float(a + (b - a) * (x + 1) / 2), float(w / 2 * (b - a) / (high - low)))
        for a, b in pairwise(edges)
        for x, w in zip(nodes, shares, strict=True)
    ]


def _check_gain_inputs(centroids: Tensor, weight: Tensor, bias: Tensor | None, **derivatives: Tensor) -> None:
    num_classes = len(centroids)
    shapes = {
        "metric_gradient": (num_classes, num_classes),
        "direction": tuple(centroids.shape),
        "bias_direction": (num_classes,),
    }
    for name, tensor, shape in (
        ("centroids", centroids, tuple(centroids.shape)),
        ("weight", weight, tuple(centroids.shape)),
        ("bias", bias, (num_classes,)),
        *((name, tensor, shapes[name]) for name, tensor in derivatives.items()),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape or centroids.ndim != 2:
            raise ValueError(
                f"{name} must have shape {shape} beside {num_classes} centroids, found {tuple(tensor.shape)}."
            )
        if not all_finite(tensor):
            raise ValueError(
                f"{name} holds values that are not finite; the gain needs finite ones. The first is that of class "
                f"{first_not_finite(tensor)}."
            )

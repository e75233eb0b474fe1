"""A bias a class, added to the logits after training: by rule, or chosen on validation for any objective.

Shape suffixes: N samples, K classes, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix_hf.method.confusion import (
    confusion_counts,
    predicted_classes,
    require_all_classes,
    resolve_class_prior,
)
from selmix_hf.method.losses import positive_counts
from selmix_hf.method.objectives import Objective
from selmix_hf.method.ranking import has_score

_FEW_CLASSES = 20  # beyond, moving single coordinates would take minutes
_TEMPERATURES, _STEPS, _RATE = (1.0, 0.3, 0.1), 100, 0.1  # of the ascent on a soft confusion matrix
_PENALTY = 10.0  # of a violated constraint, relative units


def logit_adjustment(class_counts: Sequence[int] | Tensor, tau: float = 1.0) -> Tensor:
    """The bias -tau log pi_k that post-hoc logit adjustment adds to the logits; shape K, float32.

    Menon et al. 2021, "Long-tail learning via logit adjustment" (arXiv 2007.07314), equation 9; of a head that was
    trained by plain cross entropy, tau = 1 is right for mean recall.

    Args:
        class_counts: training samples of each class, K.
        tau: strength; 0 for none.

    Raises:
        ValueError: counts that are not positive.
    """
    counts_K = positive_counts(class_counts)
    return (-tau * (counts_K / counts_K.sum()).log()).float()


def tune_class_bias(
    logits: Tensor, labels: Tensor, objective: Objective, num_passes: int | None = None, num_candidates: int = 64
) -> Tensor:
    """The bias (K) whose predictions argmax(logits + bias) score best: the plug-in rule of an objective.

    First by gradient: softmax((logits + bias) / T) makes a soft confusion matrix, on which the objective climbs for
    falling T, and the best bias by the exact score on the way is kept; of equal scores the higher mean recall counts.
    Then by coordinates: one class's bias at a time moves to the best of `num_candidates` values, each in the middle
    between two at which single samples change to or from that class, until a whole pass changes nothing. The result
    never scores below the logits as they are. It is optimistic on the samples it was chosen on. After Narasimhan et
    al. 2015, "Consistent multiclass algorithms for complex performance measures" (plug-in classifiers), with
    thresholds alone.

    Args:
        logits: N x K.
        labels: true classes, N; every class must be there.
        objective: scored by `Objective.score`, so that feasible biases come first.
        num_passes: over all classes at most; 0 leaves the second part out, whose time grows with N K num_candidates;
            default 20 for up to 20 classes and 0 for more.
        num_candidates: for each class and pass.

    Raises:
        ValueError: shapes that do not fit, a class without samples, or logits without a largest one.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected logits N x K and labels N, found {list(logits.shape)} and {list(labels.shape)}.")
    num_classes = logits.shape[1]
    require_all_classes(torch.bincount(labels, minlength=num_classes))
    search = _Search(logits.detach().double(), labels, objective)
    start = search.best
    search.climb()
    passes = 20 * (num_classes <= _FEW_CLASSES) if num_passes is None else num_passes
    search.coordinates(passes, num_candidates)
    bias_K = (search.bias_K - search.bias_K.mean()).to(logits.dtype)
    # rounding may take a sample over a threshold again
    return bias_K if search.score((logits + bias_K).argmax(1)) >= start else torch.zeros_like(bias_K)


class _Search:
    """The best bias so far, and two ways to a better one."""

    def __init__(self, logits_NK: Tensor, labels_N: Tensor, objective: Objective) -> None:
        self.logits_NK, self.labels_N, self.objective = logits_NK, labels_N, objective
        self.num_classes = logits_NK.shape[1]
        self.bias_K = logits_NK.new_zeros(self.num_classes)
        self.best = self.score(predicted_classes(logits_NK))

    def score(self, predicted_N: Tensor) -> tuple[float, float]:
        counts_KK = confusion_counts(self.labels_N, predicted_N, self.num_classes)
        recall_K = counts_KK.diagonal() / counts_KK.sum(1)
        score = self.objective.score(counts_KK)
        return score if has_score(score) else -torch.inf, float(recall_K.mean())

    def climb(self) -> None:
        sizes_K = torch.bincount(self.labels_N, minlength=self.num_classes)
        prior_K = resolve_class_prior(self.objective.class_prior, sizes_K)
        weight_KN = F.one_hot(self.labels_N, self.num_classes).T * (prior_K / sizes_K)[:, None]
        bias_K = self.bias_K.clone().requires_grad_()
        optimizer = torch.optim.Adam([bias_K], _RATE, maximize=True)
        for temperature in _TEMPERATURES:
            for _ in range(_STEPS):
                shifted_NK = self.logits_NK + bias_K
                if (score := self.score(shifted_NK.argmax(1))) > self.best:
                    self.best, self.bias_K = score, bias_K.detach().clone()
                soft_KK = weight_KN @ (shifted_NK / temperature).softmax(1)
                value = self.objective.value(soft_KK)
                for constraint in self.objective.constraints:
                    value = value + _PENALTY * constraint.slack(soft_KK).clamp(max=0).sum()
                optimizer.zero_grad()
                torch.autograd.backward(value)
                optimizer.step()

    def coordinates(self, num_passes: int, num_candidates: int) -> None:
        for _ in range(num_passes):
            before = self.best
            for k in range(self.num_classes):
                others_NK = self.logits_NK + self.bias_K
                others_NK[:, k] = -torch.inf
                top_N, rival_N = others_NK.max(1)
                needed_N = top_N - self.logits_NK[:, k]  # the sample is taken for k where the bias is above this
                for value in _between(needed_N, num_candidates):
                    candidate = self.score(torch.where(needed_N < value, k, rival_N))
                    if candidate > self.best:
                        self.best, self.bias_K[k] = candidate, value
            if self.best <= before:
                break


def _between(values_N: Tensor, number: int) -> Tensor:
    """Up to so many numbers that each lie in the middle between two neighbouring values, or beyond all of them."""
    sorted_U: Tensor = torch.unique(values_N)
    ends = sorted_U[:1] - 1, sorted_U[-1:] + 1
    middles = torch.cat([ends[0], (sorted_U[1:] + sorted_U[:-1]) / 2, ends[1]])
    chosen = torch.linspace(0, len(middles) - 1, min(number, len(middles)), dtype=torch.float64)
    return middles[chosen.round().long()]

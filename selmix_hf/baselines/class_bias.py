"""A bias a class, added to the logits after training and chosen on validation for any objective.

The plug-in rule of Narayan, Narasimhan and Menon's line of work in its simplest form: only the thresholds between the
classes move. Shape suffixes: N samples, K classes, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selmix_hf.confusion import confusion_counts, require_all_classes
from selmix_hf.objectives import Objective

_MEAN_RECALL_SHARE = 1e-3  # so that of two equal scores the higher mean recall wins


def tune_class_bias(
    logits: Tensor, labels: Tensor, objective: Objective, num_passes: int = 20, num_candidates: int = 64
) -> Tensor:
    """The bias (K) whose predictions argmax(logits + bias) score best, by coordinate ascent.

    One class's bias at a time is moved to the best of `num_candidates` values, at quantiles of the values at which
    single samples change to or from that class; it ends when a whole pass changes nothing. The result never scores
    below the logits as they are. It is optimistic on the samples it was chosen on.

    Args:
        logits: N x K.
        labels: true classes, N; every class must be there.
        objective: scored by `Objective.score`, so that feasible biases come first.
        num_passes: over all classes at most.
        num_candidates: for each class and pass.

    Raises:
        ValueError: shapes that do not fit, or a class without samples.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected logits N x K and labels N, found {list(logits.shape)} and {list(labels.shape)}.")
    num_classes = logits.shape[1]
    logits_NK, bias_K = logits.double(), torch.zeros(num_classes, dtype=torch.float64, device=logits.device)
    require_all_classes(torch.bincount(labels, minlength=num_classes))

    def score(counts_KK: Tensor) -> float:
        recall_K = counts_KK.diagonal() / counts_KK.sum(1)
        return objective.score(counts_KK) + _MEAN_RECALL_SHARE * float(recall_K.mean())

    best = score(confusion_counts(labels, logits_NK, num_classes))
    quantiles_C = torch.linspace(0, 1, num_candidates, dtype=torch.float64, device=logits.device)
    for _ in range(num_passes):
        before = best
        for k in range(num_classes):
            others_NK = logits_NK + bias_K
            others_NK[:, k] = -torch.inf
            top_N, rival_N = others_NK.max(1)
            needed_N = top_N - logits_NK[:, k]  # the sample is taken for k where the bias is above this
            for value in torch.quantile(needed_N, quantiles_C):
                predicted_N = torch.where(needed_N < value, k, rival_N)
                if (candidate := score(confusion_counts(labels, predicted_N, num_classes))) > best:
                    best, bias_K[k] = candidate, value
        if best <= before:
            break
    return (bias_K - bias_K.mean()).to(logits.dtype)

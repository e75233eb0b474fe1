"""How well so many samples know a recall: intervals for all classes and for the worst one, a bound for a chosen model.

All are statements over the choice of samples, for models in whose making these samples had no part. Given the numbers
of samples n_k, the hits of class k are binomial (n_k, r_k), and those of different classes are independent, as they
come from different samples. docs/validation_size.md says what follows and what does not.

Shape suffix: K classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, rel_entr

from selmix_hf.method.confusion import as_counts, measured_classes
from selmix_hf.method.minimum import check_worst_share, worst_number, worst_share_mean


def recall_intervals(
    counts: ArrayLike, confidence: float = 0.95, absent: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals of the recalls that hold for all classes at once, with at least this probability.

    Clopper-Pearson, each class at confidence^(1/K) (Sidak): K independent classes hold together with the product of
    these, and no interval is wider than Bonferroni's.

    Args:
        counts: integers, K x K, rows true classes; see `confusion.as_counts`.
        confidence: between 0 and 1.
        absent: what becomes of a class without samples: "refuse", "leave out", or None: it has the interval from 0 to
            1, since nothing is known of it.

    Returns:
        the lower and the upper ends, shape K each, of the classes that are not left out.

    Raises:
        ValueError: counts that are no K x K integers from 0 up, a confidence outside (0, 1), a class without samples
            that is refused.
    """
    hits_K, samples_K = _hits_and_samples(counts, confidence, absent)
    error = (1 - confidence ** (1 / len(hits_K))) / 2
    upper_K = 1 - binomial_lower_bound(samples_K - hits_K, samples_K, error)
    return binomial_lower_bound(hits_K, samples_K, error), upper_K


def min_recall_interval(counts: ArrayLike, confidence: float = 0.95, absent: str | None = None) -> tuple[float, float]:
    """The interval of the worst class's recall, whichever class that is; the arguments are those of
    `recall_intervals`.

    Each end is wrong with probability (1 - confidence) / 2 at most. The lower one: see `min_recall_lower_bound`. The
    upper one is the smallest of K upper ends that hold at once: if all r_k are below theirs, so is the smallest.
    """
    hits_K, samples_K = _hits_and_samples(counts, confidence, absent)
    error = (1 - confidence) / 2
    upper_K = 1 - binomial_lower_bound(samples_K - hits_K, samples_K, 1 - (1 - error) ** (1 / len(hits_K)))
    return min_recall_lower_bound(counts, confidence=1 - error, absent=absent), float(upper_K.min())


def min_recall_lower_bound(
    counts: ArrayLike, num_candidates: int = 1, confidence: float = 0.95, absent: str | None = None
) -> float:
    """What the worst class's recall reaches at least, also of a model that was chosen from several on these samples.

    The smallest of the classes' one-sided Clopper-Pearson bounds at error (1 - confidence) / num_candidates. It lies
    above min_k r_k only if the bound of the class that is truly worst does: no correction for K. The candidates'
    errors add up to 1 - confidence, so it holds for all of them at once, however one is chosen. They must not depend
    on these samples.

    Args:
        counts: of the chosen model; integers, K x K, rows true classes.
        num_candidates: among which it was chosen, the start included.
        confidence: between 0 and 1.
        absent: as for `recall_intervals`; with None the bound is 0 where a class has no sample.

    Raises:
        ValueError: as `recall_intervals`; no candidate.
    """
    hits_K, samples_K = _hits_and_samples(counts, confidence, absent)
    if num_candidates < 1:
        raise ValueError(f"num_candidates counts the models to choose from, at least 1; found {num_candidates}.")
    return float(binomial_lower_bound(hits_K, samples_K, (1 - confidence) / num_candidates).min())


def worst_share_recall_interval(
    counts: ArrayLike, share: float = 0.1, confidence: float = 0.95, absent: str | None = None
) -> tuple[float, float]:
    """The interval of the mean recall of the worst share of the classes, whichever these are; that of
    `min_recall_interval` where the share is no more than one class.

    With w = share K it is m(r), the least of all sums x = sum_k lambda_k r_k with lambda_k from 0 to 1/w and sum 1:
    classes at 1/w each, and one with what is left of 1. Each end is the better one of two, either of which is wrong
    with probability e = (1 - confidence) / 4 at most.

    Class by class, by Clopper-Pearson. Let lambda* be the one of the true recalls. Where a lower end is too high,
    m(low) > m(r), the sum of lambda*_k low_k, which is no less than m(low), is more than that of lambda*_k r_k: low_k
    > r_k for one of the ceil(w) classes that are truly worst. These must hold at once (Sidak), not all K. The upper
    end, m(high), needs all K: any of them may be among the worst.

    Pooled. For one lambda, X the same sum of the observed recalls, and a >= x, with kl of two Bernoulli variables,

        P(X >= a) <= exp(-N kl(a, x)),   N = w times the samples of the smallest class,

    and so below: N X is a sum of hits of weight b = N lambda_k / n_k <= 1, where sum b = N; log(1 - r + r e^(t b)) is
    convex in b, hence b log(1 - r + r e^t) at most, which is concave in r (Hoeffding 1963, theorem 1, for weights).
    The lower end is made from the observed m, which is no more than the X of lambda*, and needs no correction. The
    upper end needs this of every lambda of that form, e divided by their number, since chance chose the lowest.

    Few classes, or one far smaller than the others, are known better one by one, many alike ones pooled.

    Args:
        counts: integers, K x K, rows true classes.
        share: see `minimum.worst_share_mean`.
        confidence: between 0 and 1.
        absent: as for `recall_intervals`.

    Raises:
        ValueError: as `recall_intervals`; a share outside (0, 1].
    """
    hits_K, samples_K = _hits_and_samples(counts, confidence, absent)
    check_worst_share(share)
    num_classes, number = len(hits_K), worst_number(share, len(hits_K))
    if number <= 1:
        return min_recall_interval(counts, confidence, absent)

    def mean(values_K: NDArray[np.float64]) -> float:
        return float(worst_share_mean(torch.from_numpy(values_K), share))

    error, num_worst = (1 - confidence) / 4, math.ceil(number)
    of_worst, of_all = (1 - (1 - error) ** (1 / many) for many in (num_worst, num_classes))
    low = mean(binomial_lower_bound(hits_K, samples_K, of_worst))
    high = mean(1 - binomial_lower_bound(samples_K - hits_K, samples_K, of_all))
    if pooled := number * float(samples_K.min()):
        observed = mean(hits_K / samples_K)
        choices = math.comb(num_classes, num_worst) * (1 if number == num_worst else num_worst)
        low = max(low, 1 - _largest_rate(1 - observed, -math.log(error) / pooled))
        high = min(high, _largest_rate(observed, (math.log(choices) - math.log(error)) / pooled))
    return low, high


def _largest_rate(observed: float, divergence: float) -> float:
    """The largest p whose relative entropy kl(observed, p) of two Bernoulli variables is no more than `divergence`."""
    low, high = observed, 1.0
    for _ in range(60):
        p = (low + high) / 2
        within = rel_entr(observed, p) + rel_entr(1 - observed, 1 - p) <= divergence
        low, high = (p, high) if within else (low, p)
    return high


def binomial_lower_bound(hits: NDArray[np.integer], samples: NDArray[np.integer], error: float) -> NDArray[np.float64]:
    """Clopper and Pearson 1934: the rate at which so many hits or more have probability `error`; 0 without hits.

    It lies above the true rate with probability `error` at most. The upper bound is 1 less that of the misses.
    """
    return np.where(hits > 0, betaincinv(np.maximum(hits, 1), samples - hits + 1, error), 0.0)


def _hits_and_samples(
    counts: ArrayLike, confidence: float, absent: str | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    counts_KK = as_counts(counts).cpu()
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, found {confidence}.")
    hits_K, samples_K = counts_KK.diagonal(), counts_KK.sum(1)
    if absent is not None:
        measured_K = measured_classes(samples_K, absent)
        hits_K, samples_K = hits_K[measured_K], samples_K[measured_K]
    return hits_K.numpy(), samples_K.numpy()

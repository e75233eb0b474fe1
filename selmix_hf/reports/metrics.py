"""Every number that is reported, as one pure function of confusion counts; and its doors to Trainer and `evaluate`.

Shape suffixes: N samples, K classes, M of them with samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selmix_hf.method.confusion import (
    as_counts,
    confusion_counts,
    confusion_matrix,
    distinct_names,
    measured_classes,
    resolve_class_prior,
    smooth_confusion,
)
from selmix_hf.method.gain import gradient_at
from selmix_hf.method.intervals import recall_intervals
from selmix_hf.method.objectives import Objective, SmoothMetric, coverages, recalls
from selmix_hf.method.pair_distribution import PairDistribution
from selmix_hf.reports.registry import METRICS, Rates, class_groups, interval_names

if TYPE_CHECKING:
    import evaluate


def classification_metrics(
    counts: Any,
    *,
    class_prior: str | Sequence[float] = "balanced",
    train_counts: Sequence[int] | NDArray[np.integer] | None = None,
    class_names: Sequence[str] | None = None,
    tail_share: float = 0.1,
    worst_share: float = 0.1,
    per_class: bool = True,
    absent: str = "refuse",
) -> dict[str, Any]:
    """Report on confusion counts. Nothing is smoothed. docs/metrics.md defines every number beside those of other
    libraries.

    Args:
        counts: integers, K x K, rows true classes: a tensor, an array, lists, scikit-learn's `confusion_matrix`.
        class_prior: prior of coverage; see `confusion.resolve_class_prior`. Recalls do not depend on it; macro_f1 is
            that of the samples as they are, as scikit-learn has it, balanced_macro_f1 weighs all classes alike.
        train_counts: training samples of each class, for head, tail, many, medium and few.
        class_names: K names; those that several classes share get the class's number behind them.
        tail_share: see `objective_names.tail_classes`.
        worst_share: of the classes, those of the lowest recall; see `minimum.worst_share_mean`.
        per_class: whether to add "recall/<name>", "recall_low/<name>" and "recall_high/<name>" for every class.
        absent: what becomes of a class without samples: "refuse", or "leave out" of every mean, minimum and count, of
            which classes_measured tells the number. macro_f1 leaves out what has no prediction either, as
            scikit-learn does.

    Returns:
        the metrics of `registry.METRICS` by name, those of groups with train_counts and where the group has classes.
        Behind a metric the ends of its 95% interval where it has one, such as min_recall_low and min_recall_high;
        behind min_recall the worst_class (name), behind worst_share_recall the worst_share where it is more than one
        class and so not the minimum. Intervals are those of `method.intervals`: they hold on samples that had no part
        in making or choosing the model.

    Raises:
        ValueError: counts that are not K x K integers from 0 up, a class without samples that is refused, names that
            are not K, train_counts that are not K, a worst_share outside (0, 1].
    """
    counts_KK = as_counts(counts)
    num_classes = len(counts_KK)
    names = distinct_names(range(num_classes) if class_names is None else class_names)
    if len(names) != num_classes:
        raise ValueError(f"class_names must have one name a class, {num_classes}, found {len(names)}.")
    if train_counts is not None and len(train_counts) != num_classes:
        raise ValueError(f"train_counts must have one number a class, {num_classes}, found {len(train_counts)}.")
    measured_K = measured_classes(counts_KK.sum(1), absent, None if class_names is None else names)
    confusion_KK = confusion_matrix(counts_KK, class_prior, absent)
    recall_M, coverage_M = recalls(confusion_KK)[measured_K], coverages(confusion_KK)[measured_K]
    groups = {} if train_counts is None else class_groups(train_counts, tail_share)
    groups = {name: mask_M for name, mask_K in groups.items() if bool((mask_M := mask_K[measured_K.cpu()]).any())}
    names = [name for name, measured in zip(names, measured_K.tolist(), strict=True) if measured]
    rates = Rates(recall_M, len(recall_M) * coverage_M, worst_share, groups, counts_KK, absent == "leave out")
    report: dict[str, Any] = {}
    for name, metric in METRICS.items():
        value = metric.of(rates)
        if value is None:
            continue
        report[name] = int(value) if metric.is_count else float(value)
        if metric.interval is not None:
            report |= zip(interval_names(name), metric.interval(counts_KK, worst_share), strict=True)
        if metric.beside is not None:
            report |= metric.beside(rates, names)
    if per_class:
        low_M, high_M = recall_intervals(counts_KK, absent="leave out")
        kinds = {"recall": recall_M.tolist(), "recall_low": low_M.tolist(), "recall_high": high_M.tolist()}
        for kind, values_M in kinds.items():
            report |= {f"{kind}/{name}": value for name, value in zip(names, values_M, strict=True)}
    return report


def refresh_report(
    objective: Objective,
    counts: Tensor,
    class_names: Sequence[str],
    multipliers: Mapping[str, Tensor],
    gain: Tensor | None = None,
    distribution: PairDistribution | None = None,
    gradient: Tensor | None = None,
) -> dict[str, Any]:
    """What is logged at a refresh: psi and its standard error, mean and worst recall, violation and multipliers on the
    gain set and, where pairs are drawn, the effective number of pairs, the largest gain and s. `gradient`, D at these
    counts and multipliers, saves working it out again where psi is the whole of what it was taken of."""
    confusion_KK = confusion_matrix(counts, objective.class_prior)
    recall_K = recalls(confusion_KK)
    metric, multiplier = objective.metric, multipliers.get(objective.metric.name)
    # a minimum is of its components alone, whatever the multipliers make of them; nothing else need have a derivative
    minimum = metric.components is not None
    psi = metric.value if minimum else partial(metric.lagrangian, multiplier=multiplier)
    of_psi = None if minimum or objective.constraints else gradient
    report: dict[str, Any] = {
        "gain_set_psi": float(objective.value(confusion_KK)),
        "gain_set_psi_error": standard_error(psi, counts, objective.class_prior, of_psi),
        "gain_set_mean_recall": float(recall_K.mean()),
        "gain_set_worst_recall": float(recall_K.min()),
        "gain_set_worst_class": str(class_names[int(recall_K.argmin())]),
    }
    if objective.constraints:
        report["gain_set_violation"] = objective.violation(confusion_KK)
    report |= {f"largest_{name}_multiplier": float(value.max()) for name, value in multipliers.items()}
    if gain is None or distribution is None:
        return report
    report |= {
        "effective_pairs": round(distribution.effective_pairs, 2),
        "largest_gain": float(gain.max()),
    }
    if math.isfinite(distribution.inverse_temperature):  # not with other pair_sampling than selmix
        report["inverse_temperature"] = distribution.inverse_temperature
    return report


def standard_error(
    function: Callable[[Tensor], Tensor],
    counts: Tensor,
    class_prior: Any = "validation",
    gradient: Tensor | None = None,
) -> float:
    """How far a function of the confusion matrix is off by chance on a set with these counts (K x K): its standard
    error by the delta method, as the row of each class is multinomial,

        variance = sum_k pi_k / n_k sum_l D_kl^2 / C_kl

    with D of `gain.metric_gradient`, at the smoothed C. The function is differentiable, as psi; `gradient` is its D,
    where that is known.
    """
    smoothed_KK, counts_K = smooth_confusion(counts, class_prior), counts.sum(1)
    if gradient is None:
        prior_K = resolve_class_prior(class_prior, counts_K)
        gradient = gradient_at(Objective(SmoothMetric("psi", function), (), class_prior), smoothed_KK, prior_K, {})
    variance_K = smoothed_KK.sum(1) / counts_K * (gradient.square() / smoothed_KK).sum(1)
    return math.sqrt(float(variance_K.sum()))


def make_compute_metrics(num_classes: int, **options: Any) -> Callable[[Any], dict[str, Any]]:
    """A `compute_metrics` for any `transformers.Trainer`.

    Args:
        num_classes: K.
        options: of `classification_metrics`.

    Returns:
        A function of an `EvalPrediction` whose predictions are classes (N) or scores (N x K; the first of a tuple).
        It raises ValueError on scores of another number of classes and on those without a largest one, such as NaN.

    Raises:
        TypeError: an option that `classification_metrics` does not have.
        ValueError: another word for `absent`.
    """
    _check_options(options)
    return lambda prediction: classification_metrics(counts_of(prediction, num_classes), **options)


def counts_of(prediction: Any, num_classes: int) -> Tensor:
    """Confusion counts (K x K) of an `EvalPrediction`: classes (N) or scores (N x K; the first of a tuple)."""
    if hasattr(prediction, "label_ids"):  # it may have more parts: inputs and losses
        scores, labels = prediction.predictions, prediction.label_ids
    else:
        scores, labels = prediction
    return confusion_counts(_as_tensor(labels), _as_tensor(scores_of(scores)), num_classes)


def scores_of(predictions: Any) -> Any:
    """Classes (N) or scores (N x K) of what Trainer collects: the first of a tuple, such as the mean of two heads that
    a distilled DeiT gives before each of them."""
    return predictions[0] if isinstance(predictions, tuple) else predictions


def _as_tensor(values: Any) -> Tensor:
    """On the CPU. numpy has no bfloat16, so tensors do not go through it."""
    return values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def _check_options(options: Mapping[str, Any]) -> None:
    """Before the pass whose samples they are for."""
    known = [name for name in signature(classification_metrics).parameters if name != "counts"]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise TypeError(
                f"classification_metrics has no option {name!r}{f', did you mean {near[0]!r}?' if near else '.'}"
            )
    measured_classes(torch.ones(1), options.get("absent", "refuse"))


def evaluate_metric(num_classes: int, cache_dir: str | None = None, **options: Any) -> evaluate.Metric:
    """The same numbers as an `evaluate.Metric`, with its `add_batch` and `compute`.

    Predictions must be class indices: `evaluate` truncates floating ones silently, so they are refused here.

    Args:
        num_classes: K.
        cache_dir: where `evaluate` keeps its temporary files; default a folder of its own, away from the user's cache.
        options: of `classification_metrics`.

    Raises:
        TypeError, ValueError: as `make_compute_metrics`.
    """
    _check_options(options)
    import tempfile

    import datasets
    import evaluate

    class SelMixMetrics(evaluate.Metric):  # type: ignore[misc]  # theirs has no types
        def _info(self) -> evaluate.MetricInfo:
            features = datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            )
            return evaluate.MetricInfo(
                description="Recall of the worst class, G-mean, H-mean, coverage and their kin.",
                citation="",
                inputs_description="predictions and references: class indices.",
                features=features,
            )

        # evaluate appends to these docstrings, so they must be there
        def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
            """Add class indices."""
            _require_integers(predictions=predictions, references=references)
            super().add_batch(predictions=predictions, references=references, **kwargs)

        def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
            """Add one class index of each."""
            _require_integers(predictions=prediction, references=reference)
            super().add(prediction=prediction, reference=reference, **kwargs)

        def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
            labels, predicted = torch.as_tensor(np.asarray(references)), torch.as_tensor(np.asarray(predictions))
            return classification_metrics(confusion_counts(labels, predicted, num_classes), **options)

    return SelMixMetrics(cache_dir=cache_dir or tempfile.mkdtemp(prefix="selmix_hf_metric_"))


def _require_integers(**given: Any) -> None:
    for what, values in given.items():
        if not np.issubdtype(np.asarray(values).dtype, np.integer):
            raise ValueError(f"{what} must be class indices, found {np.asarray(values).dtype}: take the argmax.")

"""The numbers of this package beside those of scikit-learn, torchmetrics and imbalanced-learn, on six small cases.

    pip install -e ".[test]" && python -m benchmarks.metric_cases    # the table of docs/metrics.md

Three classes, a, b and c. What a library says of a class without samples, without predictions or without both is its
own affair; where they differ, docs/metrics.md says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torchmetrics.classification as theirs_of_torch
from imblearn import metrics as theirs_of_imbalanced
from sklearn import metrics as theirs

from selmix_hf import classification_metrics
from selmix_hf.reports.tables import markdown_table

K = 3
CASES = {  # true and predicted classes
    "as many of each": ("aaaabbbbcccc", "aaabbbbaccbb"),
    "a long tail": ("aaaaaaaabbbc", "aaaaaaabbbac"),
    "c never predicted": ("aaaabbbcc", "aaabbbaba"),
    "c without samples, predicted": ("aaaabbbb", "aaacbbbc"),
    "c without both": ("aaaabbbb", "aaabbbba"),
    "c without samples, b never predicted": ("aaaabb", "aaacac"),
}
Numbers = np.ndarray


def ours(name: str) -> Callable[[Numbers, Numbers], float]:
    def value(labels: Numbers, predicted: Numbers) -> float:
        counts = theirs.confusion_matrix(labels, predicted, labels=range(K))
        return classification_metrics(counts, absent="leave out")[name]

    return value


def of_torch(name: str, average: str | None = "macro") -> Callable[[Numbers, Numbers], float]:
    metric = getattr(theirs_of_torch, name)(num_classes=K, average=average)
    return lambda labels, predicted: float(metric(torch.from_numpy(predicted), torch.from_numpy(labels)).min())


ROWS: dict[tuple[str, str], Callable[[Numbers, Numbers], float]] = {
    ("accuracy", "`accuracy`"): ours("accuracy"),
    ("", "scikit-learn `accuracy_score`"): theirs.accuracy_score,
    ("", "torchmetrics `MulticlassAccuracy(K)`"): of_torch("MulticlassAccuracy"),
    ("mean recall", "`mean_recall`"): ours("mean_recall"),
    ("", "scikit-learn `balanced_accuracy_score`"): theirs.balanced_accuracy_score,
    ("", 'scikit-learn `recall_score(average="macro")`'): lambda *both: theirs.recall_score(*both, average="macro"),
    ("", "torchmetrics `MulticlassRecall(K)`"): of_torch("MulticlassRecall"),
    ("", 'imbalanced-learn `sensitivity_score(average="macro")`'): lambda *both: (
        theirs_of_imbalanced.sensitivity_score(*both, average="macro")
    ),
    ("worst class", "`min_recall`"): ours("min_recall"),
    ("", "torchmetrics `MulticlassRecall(K, average=None)`, its least"): of_torch("MulticlassRecall", None),
    ("G-mean", "`g_mean`"): ours("g_mean"),
    ("", "imbalanced-learn `geometric_mean_score`"): theirs_of_imbalanced.geometric_mean_score,
    ("macro-F1", "`macro_f1`"): ours("macro_f1"),
    ("", 'scikit-learn `f1_score(average="macro")`'): lambda *both: theirs.f1_score(*both, average="macro"),
    ("", "torchmetrics `MulticlassF1Score(K)`"): of_torch("MulticlassF1Score"),
    ("balanced macro-F1", "`balanced_macro_f1`"): ours("balanced_macro_f1"),
    ("classes measured", "`classes_measured`"): ours("classes_measured"),
}


def table() -> str:
    """Markdown: a row a metric and library, a column a case."""
    cases = [tuple(np.array(["abc".index(letter) for letter in side]) for side in case) for case in CASES.values()]
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without samples or predictions, which are the point
        for (metric, library), value in ROWS.items():
            digits = "d" if metric == "classes measured" else ".3f"
            rows.append([metric, library, *(f"{value(*case):{digits}}".removeprefix("0") for case in cases)])
    return markdown_table(["", "", *CASES], rows)


if __name__ == "__main__":
    print(table())

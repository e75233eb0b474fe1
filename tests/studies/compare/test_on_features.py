"""Methods whose result is a head: budget, and the images that they see."""

import pytest
import torch
from compare_runs import run

from selmix_hf.head_fitting import retraining as head
from selmix_hf.studies.compare.by_trainer import ByTrainer
from selmix_hf.studies.compare.comparison import Comparison
from selmix_hf.studies.compare.on_features import OnFeatures

pytestmark = pytest.mark.usefixtures("few_refit_steps")


def test_rivals_have_the_budget_and_the_other_half(folder, tmp_path, monkeypatch):
    """Images of a head's training, and the validation images that the search fits on and measures."""
    budgets, fitted, measured = [], [], []
    descend, fit, counts = head._descend, OnFeatures.fit, Comparison._counts
    monkeypatch.setattr(
        head,
        "_descend",
        lambda *given, **own: budgets.append((own["steps"], own["batch_size"])) or descend(*given, **own),
    )
    monkeypatch.setattr(OnFeatures, "fit", lambda *given: fitted.append(set(given[-1].tolist())) or fit(*given))
    monkeypatch.setattr(
        Comparison,
        "_counts",
        lambda self, rows_N, predicted: measured.append(set(rows_N.tolist())) or counts(self, rows_N, predicted),
    )
    monkeypatch.setattr(ByTrainer, "fit", lambda *given: lambda rows_N: torch.zeros(len(rows_N), dtype=torch.long))
    rivals = ["class bias", "cost-sensitive head", "cRT"]
    run(folder, tmp_path, "--freeze_backbone", "true", "--objectives", "min_recall", "h_mean", "--methods", *rivals)
    assert set(budgets) == {(4, 8)}
    searches = [(a, b) for a, b in zip(fitted, measured, strict=False) if len(a) == 30][:10]
    assert len(searches) == 10 and all(len(b) == 30 and not a & b for a, b in searches)

"""The registry of methods, each from a frozen backbone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compare_runs import run

from recipes import compare
from selmix_hf.studies.compare.by_trainer import ByTrainer
from selmix_hf.studies.compare.methods import METHODS, SELMIX
from selmix_hf.studies.compare.on_features import OnFeatures
from selmix_hf.studies.compare.report import table

pytestmark = pytest.mark.usefixtures("few_refit_steps")


def test_every_method_from_a_frozen_backbone(folder, tmp_path, capsys, monkeypatch):
    fit, fit_head = ByTrainer.fit, OnFeatures.fit
    more = ["--freeze_backbone", "true", "--objectives", "min_recall", "mean_recall", "--seeds", "0", "1"]
    record = run(folder, tmp_path, *more, "--num_settings", "2")
    assert json.loads((tmp_path / "compare.json").read_text()) == record
    assert list(record["objectives"]) == ["min_recall", "mean_recall"]
    for objective, methods in record["objectives"].items():
        assert list(methods) == [name for name in METHODS if name != "cost-sensitive"]
        for name, result in methods.items():
            assert len(result["runs"]) == (2 if METHODS[name].draws else 1)
            assert all(report["psi"] == report[objective] for report in result["runs"])
            assert len(result["tried"]) == (0 if name == "the start" else 2)
            if result["tried"]:
                best = max(row["score"] for row in result["tried"])
                assert result["setting"] in [row["setting"] for row in result["tried"] if row["score"] == best]
        assert methods[SELMIX]["selmix_minus"] is None
        start, own = (
            np.mean([report[objective] for report in methods[name]["runs"]]) for name in ("the start", SELMIX)
        )
        change, low, high = methods["the start"]["selmix_minus"][objective]
        assert change == pytest.approx(own - start, abs=1e-6) and low <= change <= high
    report = (tmp_path / "compare.md").read_text()
    assert table(record) in report and (tmp_path / "front.png").stat().st_size > 5000
    assert record["objectives"]["min_recall"][SELMIX]["peak_memory_gb"]["process"] >= 0
    said = capsys.readouterr().out
    # the same command again, with another objective: what was fitted is there
    made = []
    monkeypatch.setattr(ByTrainer, "fit", lambda *given: made.append(given[2]) or fit(*given))
    monkeypatch.setattr(OnFeatures, "fit", lambda *given: made.append(given[2]) or fit_head(*given))
    monkeypatch.setattr(compare, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # what is left: of earlier fits
    more[2:5] = ["--objectives", "min_recall", "h_mean", "--methods", "cost-sensitive head"]
    later = run(folder, tmp_path, *more, "--num_settings", "2")
    assert set(made) == {"h_mean"}
    again = later["objectives"]["min_recall"]
    assert later["seconds"] > sum(2 * result["seconds"] for result in again.values())  # two seeds, and the search
    assert again == {name: record["objectives"]["min_recall"][name] for name in ("cost-sensitive head", SELMIX)}
    assert "For min_recall:\n  the start: " in said and "Table, numbers and picture are in" in said


def test_a_line_in_the_registry_is_all_that_a_method_needs(folder, tmp_path, monkeypatch):
    def one_class(task, setting):
        return torch.zeros_like(task.head[0]), torch.eye(3)[setting["class"]]

    only = OnFeatures(one_class, [{"class": 0}, {"class": 2}], reads_validation=True, draws=False, whole_network=False)
    monkeypatch.setitem(METHODS, "one class", only)
    more = ["--objectives", "mean_recall", "--methods", "one class"]
    record = run(folder, tmp_path, "--freeze_backbone", "true", *more, "--num_settings", "2")
    result = record["objectives"]["mean_recall"]["one class"]
    assert [row["setting"] for row in result["tried"]] == [{"class": 0}, {"class": 2}]
    assert [result["runs"][0][f"recall/{name}"] for name in "abc"] == [1, 0, 0] and len(result["runs"]) == 1
    assert "| one class" in (tmp_path / "compare.md").read_text()
    with pytest.raises(SystemExit, match="--methods: unknown one class"):
        run(folder, tmp_path, *more)

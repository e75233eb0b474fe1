"""The card and the plots of a record."""

import json
from pathlib import Path

import pytest
from cards import many_classes

from benchmarks import regenerate
from selmix_hf.reports.plots import save_record_plots
from selmix_hf.studies.record_card import released_run, render_record
from selmix_hf.studies.results import Results

CARDS = Path(__file__).parents[2] / "model_cards"
RECORDS = sorted(CARDS.glob("*/results.json"))


def test_a_record_of_many_classes(tmp_path):
    """From the record of a run of few, with reports of many in their place."""
    record = json.loads((regenerate.CARDS / "cifar10-lt-h-mean" / "results.json").read_text(encoding="utf-8"))
    for run in record["runs"]:
        run |= {
            "gain": None,
            "pair_probability": None,
            "test_before": many_classes([0, 0, 3]),
            "test_after": many_classes([1, 3, 3]),
        }
    record |= {"class_names": [str(k) for k in range(30)], "train_counts": [*range(30, 0, -1)]}
    record["change_and_interval"] |= {"worst_share_recall": [0.1, 0.05, 0.15], "zero_recall_classes": [-2, -2, 0]}
    card = render_record(record, [])
    assert "mean recall of the worst tenth 0.233 (" in card.text and "| +0.050 to +0.150 |" in card.text
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["worst_share_recall"] == pytest.approx(0.2333) and "zero_recall_classes" not in values
    save_record_plots(record, tmp_path)
    assert (tmp_path / "recall_per_class.png").is_file()


def test_the_objective_of_a_record(tmp_path):
    """By the metric of its name, which has no row: recipes record no psi of test samples."""
    record = json.loads((regenerate.CARDS / "cifar10-lt-h-mean" / "results.json").read_text(encoding="utf-8"))
    values = [run["test_after"]["balanced_macro_f1"] for run in record["runs"]]
    text = render_record(record | {"objective": "macro_f1"}, []).text
    (row,) = [line for line in text.splitlines() if line.startswith("| objective `macro_f1` (balanced macro-F1)")]
    assert row.split("|")[3].strip().startswith(f"{sum(values) / len(values):.3f}")
    assert "| objective `" not in render_record(record, []).text


def test_the_released_run_is_the_best_on_validation():
    results = Results.from_dict(json.loads(RECORDS[0].read_text(encoding="utf-8")))
    for run, score in zip(results.runs, (0.5, 0.6, 0.55), strict=True):
        run.validation_after["eval_selection_score"] = score
    assert released_run(results) == 1

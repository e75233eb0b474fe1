"""Cards, tables and plots say what their records say."""

import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from benchmarks import regenerate
from recipes.quickstart import long_tailed_digits
from selmix_hf import min_recall_interval, recall_intervals
from selmix_hf.reports.plots import save_record_plots

RECORDS = sorted(regenerate.CARDS.glob("*/results.json"))


def test_pages_and_cards_are_as_their_records_say():
    regenerate.main(["--check"])


def test_a_stale_card_is_found(monkeypatch):
    plain = regenerate.render_record
    monkeypatch.setattr(regenerate, "render_record", lambda *given: f"{plain(*given)} stale")
    with pytest.raises(SystemExit, match=f"not as their records say: .*{RECORDS[0].parent.name}/README.md"):
        regenerate.main(["--check"])


def test_every_row_has_a_record():
    assert set(regenerate.CIFAR10_LT.values()) <= {path.parent.name for path in RECORDS}
    listed = (regenerate.CARDS / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.parent.name}/README.md)" in listed for path in RECORDS)


def intervals_again(report, samples):
    """The intervals of a report from its recalls and the number of test samples a class."""
    recalls = [value for name, value in report.items() if name.startswith("recall/")]
    hits = np.array(recalls) * samples
    assert hits == pytest.approx(hits.round(), abs=1e-3)
    hits = hits.round().astype(int)
    counts = np.diag(hits) + np.roll(np.diag(samples - hits), 1, 1)
    return (*min_recall_interval(counts), *recall_intervals(counts))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_recorded_intervals_are_those_of_the_recalls(path):
    for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        test = long_tailed_digits(run["seed"])["test"]["label"] if "digits" in path.parent.name else None
        samples = np.full(10, 1000) if test is None else np.bincount(test)
        for report in (run["test_before"], run["test_after"]):
            low, high, low_K, high_K = intervals_again(report, samples)
            assert (report["min_recall_low"], report["min_recall_high"]) == pytest.approx((low, high), abs=1e-6)
            for kind, expected_K in (("recall_low/", low_K), ("recall_high/", high_K)):
                found_K = [value for name, value in report.items() if name.startswith(kind)]
                assert found_K == pytest.approx(expected_K, abs=1e-6)


def test_a_record_without_intervals_still_makes_a_card_and_plots(tmp_path):
    """Those of before reports had them."""
    record = json.loads(RECORDS[0].read_text(encoding="utf-8"))
    for run in record["runs"]:
        for part in ("test_before", "test_after"):
            run[part] = {name: value for name, value in run[part].items() if not re.search("_(low|high)", name)}
    assert "| worst-class recall" in str(regenerate.render_record(record, []))
    assert "recall_per_class.png" in [path.name for path in save_record_plots(record, tmp_path)]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_a_card_holds_the_numbers_of_its_record(path):
    record, card = json.loads(path.read_text(encoding="utf-8")), ModelCard.load(path.parent / "README.md")
    best = max(record["runs"], key=lambda run: run["validation_after"]["eval_selection_score"])
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["min_recall"] == pytest.approx(best["test_after"]["min_recall"], abs=1e-4)
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    for plot in ("gain_matrix", "pair_distribution", "recall_per_class", "objective"):
        assert f"plots/{plot}.png" in card.text
        assert (path.parent / "plots" / f"{plot}.png").stat().st_size > 5000

"""Cards, tables and plots say what their records say."""

import json

import pytest
from huggingface_hub import ModelCard

from benchmarks import regenerate

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

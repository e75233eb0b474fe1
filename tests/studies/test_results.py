"""results.json is written in one order, and whatever version wrote it, it can be read."""

import json
from pathlib import Path

import pytest

from selmix_hf.studies.record_card import render_record
from selmix_hf.studies.results import ABSENT, Results

CARDS = Path(__file__).parents[2] / "model_cards"
RECORDS = sorted(CARDS.glob("*/results.json"))
OF_ANOTHER_ORDER = "cifar10-lt-min-recall-whole-network"  # tests of a run before its history


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_a_recorded_file_is_written_again_as_it_is(path, tmp_path):
    results = Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
    results.save(tmp_path)
    written = (tmp_path / "results.json").read_text(encoding="utf-8")
    if path.parent.name == OF_ANOTHER_ORDER:
        assert json.loads(written) == json.loads(path.read_text(encoding="utf-8"))
    else:
        assert written == path.read_text(encoding="utf-8")


def test_what_an_older_record_lacks_is_absent():
    record = json.loads(RECORDS[0].read_text(encoding="utf-8"))
    optional = {"constraints", "remark", "timing"}
    for run in record["runs"]:
        del run["gain"], run["pair_probability"]
    older = {name: value for name, value in record.items() if name not in optional}
    results = Results.from_dict(older)
    assert all(getattr(results, name) is ABSENT for name in {*optional, "task", "num_unlabeled", "test"})
    assert results.runs[0].gain is ABSENT and results.runs[0].pseudo_labels is ABSENT
    assert results.to_dict() == older
    text = str(render_record(older, []))
    assert "image-classification" in text and "unlabelled" not in text


def test_the_macro_f1_of_an_older_record_is_the_balanced_one():
    text = RECORDS[0].read_text(encoding="utf-8")
    older = json.loads(text.replace("balanced_macro_f1", "macro_f1"))
    assert "balanced" not in str(older) and Results.from_dict(older).to_dict() == json.loads(text)
    older["remark"] = 'Chosen by "balanced_macro_f1": 0.5'  # words tell no version, the names of metrics do
    assert Results.from_dict(older).runs[0].test_after == json.loads(text)["runs"][0]["test_after"]


def test_a_record_of_today_keeps_both():
    record = json.loads(RECORDS[0].read_text(encoding="utf-8"))
    for run in record["runs"]:
        run["test_after"] |= {"macro_f1": 0.25, "balanced_macro_f1": 0.5}
    record["runs"][-1]["test_before"] = {"macro_f1": 0.25}  # one report may lack what the others have
    assert Results.from_dict(record).to_dict() == record


def test_what_a_later_record_has_besides_is_passed_over():
    record = json.loads(RECORDS[0].read_text(encoding="utf-8"))
    later = {**record, "of_tomorrow": 1, "runs": [{**run, "of_tomorrow": 2} for run in record["runs"]]}
    assert Results.from_dict(later).to_dict() == record


def test_a_file_that_is_no_record_says_what_it_lacks():
    with pytest.raises(TypeError, match="'objective'"):
        Results.from_dict({"name": "mine", "runs": []})

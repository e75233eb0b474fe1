"""One definition of every reported metric: a new one is shown everywhere, and one that is missing nowhere a fault."""

import copy
import json
import re

import numpy as np
import pytest
import torch

from benchmarks import regenerate
from selmix_hf.method.confusion import confusion_counts, confusion_matrix
from selmix_hf.method.objective_names import OBJECTIVES, get_objective
from selmix_hf.method.objectives import coverages, recalls
from selmix_hf.reports.bootstrap import paired_bootstrap
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.reports.plots import save_record_plots
from selmix_hf.reports.registry import (
    METRICS,
    Place,
    Rates,
    ReportedMetric,
    class_groups,
    interval_names,
    metric_title,
    titles_in,
)
from selmix_hf.reports.tables import before_after_table, seeds_table
from selmix_hf.studies.analysis import report as analysis
from selmix_hf.studies.compare import report as compare
from selmix_hf.studies.record_card import render_record

TRAIN_COUNTS = [500, 101, 100, 40, 20, 19, 5]
OF_ONE_MATRIX = ("accuracy", "classes_measured", "macro_f1", "balanced_macro_f1")
GENERATOR = torch.Generator().manual_seed(0)
MANY = torch.randint(0, 9, (5, 7, 7), generator=GENERATOR) + 5 * torch.eye(7, dtype=torch.long)


# --- definitions -------------------------------------------------------------------------------------------------


def test_the_names_of_a_report_and_their_order():
    report = classification_metrics(MANY[0], train_counts=TRAIN_COUNTS, worst_share=0.5, class_names="abcdefg")
    of_classes = [name for name in report if "/" in name]
    assert [*report][: -len(of_classes)] == [
        *("accuracy", "mean_recall", "min_recall", "min_recall_low", "min_recall_high", "worst_class"),
        *("worst_share_recall", "worst_share_recall_low", "worst_share_recall_high", "worst_share"),
        *("zero_recall_classes", "g_mean", "h_mean", "macro_f1", "balanced_macro_f1", "smallest_coverage"),
        *("head_recall", "tail_recall", "many_recall", "medium_recall", "few_recall", "min_head_tail_recall"),
    ]
    assert of_classes == [f"{kind}/{name}" for kind in ("recall", "recall_low", "recall_high") for name in "abcdefg"]


@pytest.mark.parametrize("name", [name for name in METRICS if name not in OF_ONE_MATRIX])
def test_of_many_matrices_at_once_as_of_one(name):
    matrices, groups = [confusion_matrix(counts, "balanced") for counts in MANY], class_groups(TRAIN_COUNTS)
    rates = [Rates(recalls(one), 7 * coverages(one), 0.3, groups) for one in matrices]
    together = Rates(torch.stack([r.recall for r in rates]), torch.stack([r.coverage for r in rates]), 0.3, groups)
    found = METRICS[name].of(together)
    assert found.tolist() == [float(METRICS[name].of(one)) for one in rates]
    reports = [classification_metrics(counts, train_counts=TRAIN_COUNTS, worst_share=0.3) for counts in MANY]
    assert found.tolist() == [report[name] for report in reports]


@pytest.mark.parametrize("name", ["g_mean", "h_mean"])
def test_rows_with_a_class_without_recall_are_zero_among_others(name):
    recall = torch.tensor([[0.5, 0.5], [0.0, 0.9], [0.4, 0.9]], dtype=torch.float64)
    expected = {"g_mean": [0.5, 0, 0.6], "h_mean": [0.5, 0, 2 / (1 / 0.4 + 1 / 0.9)]}[name]
    assert METRICS[name].of(Rates(recall, recall, 0.1)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name in METRICS])
def test_a_reported_metric_is_the_objective_of_its_name(name):
    objective = get_objective(name, class_counts=TRAIN_COUNTS, worst_share=0.3, class_prior="validation")
    report = classification_metrics(MANY[0], train_counts=TRAIN_COUNTS, worst_share=0.3)
    assert float(objective.value(confusion_matrix(MANY[0]))) == pytest.approx(report[name], abs=1e-15)


def test_the_objective_macro_f1_is_balanced_unless_it_is_told_otherwise():
    """Its value is the report's balanced_macro_f1, and with the samples' own prior macro_f1."""
    report = classification_metrics(MANY[0])
    for prior, name in ((None, "balanced_macro_f1"), ("validation", "macro_f1")):
        objective = get_objective("macro_f1", class_prior=prior)
        assert objective.score(MANY[0]) == pytest.approx(report[name], abs=1e-15)
    assert report["balanced_macro_f1"] != report["macro_f1"]


def test_what_the_rates_do_not_tell_is_left_out():
    rates = Rates(torch.tensor([0.5, 1.0]), torch.tensor([0.5, 1.5]), 0.1)
    assert {name for name, metric in METRICS.items() if metric.of(rates) is None} == {
        *OF_ONE_MATRIX,
        *("head_recall", "tail_recall", "many_recall", "medium_recall", "few_recall", "min_head_tail_recall"),
    }


# --- titles ------------------------------------------------------------------------------------------------------


def test_rows_are_the_key_metrics_head_and_tail_then_groups():
    reports = [classification_metrics(MANY[0], train_counts=TRAIN_COUNTS, worst_share=0.5)]
    assert titles_in(reports) == {
        "mean_recall": "mean recall",
        "min_recall": "worst-class recall",
        "worst_share_recall": "mean recall of the worst half",
        "g_mean": "G-mean",
        "h_mean": "H-mean",
        "smallest_coverage": "smallest coverage",
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "min_head_tail_recall": "smaller of head and tail recall",
        "many_recall": "recall, many (over 100 images)",
        "medium_recall": "recall, medium (20 to 100)",
        "few_recall": "recall, few (under 20)",
    }
    assert [*titles_in(reports, [Place.GROUP])] == ["many_recall", "medium_recall", "few_recall"]
    assert titles_in([{"loss": 1.0}]) == {}


def test_titles_of_objectives():
    names = ("worst_share_recall", "macro_f1", "my_own", "psi")
    assert [metric_title(name) for name in names] == ["mean recall of the worst share", "macro-F1", "my own", "psi"]
    assert interval_names("min_recall") == ("min_recall_low", "min_recall_high")
    assert interval_names("recall/recall/b") == ("recall_low/recall/b", "recall_high/recall/b")


# --- a new metric ------------------------------------------------------------------------------------------------


def test_an_entry_is_all_that_a_new_metric_needs(monkeypatch):
    best = ReportedMetric(
        title="best-class recall",
        of=lambda rates: rates.recall.amax(-1),
        place=Place.KEY,
        interval=lambda counts, worst_share: (0.25, 1.0),
    )
    monkeypatch.setitem(METRICS, "best_recall", best)
    labels = np.arange(3).repeat(8)
    before, after = np.where(np.arange(24) % 8 < 4, labels, 0), np.where(np.arange(24) % 8 < 6, labels, 1)
    sides = [
        classification_metrics(confusion_counts(torch.as_tensor(labels), torch.as_tensor(side), 3))
        for side in (before, after)
    ]
    assert [side["best_recall"] for side in sides] == [1.0, 1.0] and sides[0]["best_recall_low"] == 0.25
    intervals = paired_bootstrap(labels, before, after, 3, num_resamples=5)
    assert intervals["best_recall"] == (0, 0, 0)
    (row,) = [
        line for line in before_after_table(sides[:1], sides[1:], intervals).splitlines() if "best-class" in line
    ]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        *("1.000", "1.000", "0.250 to 1.000", "+0.000", "+0.000 to +0.000")
    ]
    assert "best-class recall | 95% interval" in " ".join(seeds_table({"one": sides}).split())
    card = render_record(_record(sides, after=sides), [])
    assert "best-class recall 1.000 (0.250 to 1.000)" in card.text
    assert {"best_recall"} <= {result.metric_type for result in card.data.eval_results}
    assert compare.title_of("best_recall") == "best-class recall"


# --- records that lack a metric ----------------------------------------------------------------------------------


def _record(before, after):
    """The record of a run of a recipe, with other reports."""
    record = json.loads((regenerate.CARDS / "cifar10-lt-h-mean" / "results.json").read_text(encoding="utf-8"))
    record["runs"] = record["runs"][: len(after)]
    for run, one, other in zip(record["runs"], before, after, strict=True):
        run |= {"test_before": dict(one), "test_after": dict(other), "gain": None, "pair_probability": None}
    names = [name.removeprefix("recall/") for name in after[0] if name.startswith("recall/")]
    counts = [*range(len(names), 0, -1)]
    return record | {"class_names": names, "train_counts": counts, "change_and_interval": {}}


def _of_many_classes():
    """Two runs of thirty classes: one class without a hit, so that a report has every metric."""
    frequency = np.geomspace(500, 5, 30).astype(int)

    def report(seed):
        generator = torch.Generator().manual_seed(seed)
        hits = torch.randint(3, 10, (30,), generator=generator)
        hits[29] = 0
        counts = torch.diag(hits) + torch.diag(10 - hits).roll(1, 1)
        return classification_metrics(counts, train_counts=frequency, absent="leave out")

    return _record([report(0)] * 2, [report(1), report(2)])


RECORD = _of_many_classes()
REPORT = RECORD["runs"][0]["test_after"]
OF_A_CLASS = [f"{kind}/3" for kind in ("recall", "recall_low", "recall_high")]
KEYS = [*(name for name in REPORT if "/" not in name), *OF_A_CLASS]


def without(name, sides=("test_before", "test_after"), runs=(0, 1)):
    record = copy.deepcopy(RECORD)
    for run in runs:
        for side in sides:
            del record["runs"][run][side][name]
    return record


def rows_of(card):
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells[2:]}


def test_a_record_may_have_them_all():
    assert set(METRICS) <= set(REPORT) and "worst_share" in REPORT


@pytest.mark.parametrize("name", KEYS)
def test_a_card_of_a_record_that_lacks_a_number(name):
    """Of one seed or of all: its cell and the change are blank, or there is no row; all other rows stay."""
    whole, of_end = rows_of(render_record(RECORD, [])), re.sub("_(low|high)", "", name)
    title = (titles_in([REPORT]) | {"recall/3": "recall of 3", "worst_class": "worst class"}).get(of_end)
    for record in (without(name, ["test_after"], [0]), without(name)):
        rows = rows_of(render_record(record, []))
        for row, cells in rows.items():
            if row != title:
                assert cells == whole.get(row, cells)  # another class is among the worst
            elif name == of_end:
                assert cells[1] == cells[3] == ""
            else:
                assert cells[2] == "" != whole[row][2] and cells[:2] == whole[row][:2]
        assert len(rows) >= len(whole) - 1


@pytest.mark.parametrize("name", ["worst_share", *(n for n in KEYS if n.startswith("worst_share_")), *OF_A_CLASS])
def test_plots_of_a_record_that_lacks_a_number(name, tmp_path, recwarn):
    paths = save_record_plots(without(name), tmp_path)
    assert "recall_per_class.png" in [path.name for path in paths] and not recwarn.list


def test_a_plot_of_recalls_that_nobody_recorded_is_left_out(tmp_path):
    record = copy.deepcopy(RECORD)
    record["runs"][0]["test_before"] = {"mean_recall": 0.5}
    for log in record["runs"][0]["history"]:
        log.pop("gain_set_mean_recall")
    names = [path.name for path in save_record_plots(record, tmp_path)]
    assert "objective.png" in names and "recall_per_class.png" not in names


@pytest.mark.parametrize("name", KEYS)
def test_a_table_of_methods_that_lacks_a_number(name):
    old, new = [{**REPORT}], [{key: value for key, value in REPORT.items() if key != name}]
    header, _, *rows = [
        [c.strip() for c in line.split("|")[1:-1]] for line in seeds_table({"a": old, "b": new}).splitlines()
    ]
    title = titles_in([REPORT], [Place.KEY]).get(name)
    if title in header:
        place = header.index(title)
        assert rows[0][place] != "" == rows[1][place]
    assert len({len(row) for row in (header, *rows)}) == 1 and rows[0][1:3] != ["", ""]


@pytest.mark.parametrize("name", ["mean_recall", "min_recall", "min_recall_low", "h_mean", "smallest_coverage", "psi"])
def test_a_comparison_that_lacks_a_number(name):
    record = regenerate.read(regenerate.RECORDED / "compare_r10_la.json")
    for methods in record["objectives"].values():
        for result in methods.values():
            for report in result["runs"]:
                report.pop(name, None)
    table, (header, rows), lines = compare.table(record), compare.summary(record), compare.front_lines(record)
    assert "nan" not in f"{table} {rows} {lines}" and {len(row) for row in rows} == {len(header)}
    assert bool(lines) == (name not in ("mean_recall", "min_recall"))
    assert compare.plot_front(record, "").axes[0].get_ylabel() == "worst-class recall"


@pytest.mark.parametrize("name", ["mean_recall", "min_recall", "h_mean", "smallest_coverage"])
def test_a_study_that_lacks_a_number(name):
    record = regenerate.read(regenerate.RECORDED / "analysis_digits_scratch.json")
    for study, of_objectives in record["studies"].items():
        for rows in of_objectives.values():
            for row in rows:
                for run in row["runs"]:
                    run["before"].pop(name), run["after"].pop(name)
        text = analysis.study_report(study, of_objectives)
        assert "nan" not in text and (name != "mean_recall" or "|  " in text)

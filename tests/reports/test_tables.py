"""Tables, by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from selmix_hf.method.intervals import recall_intervals
from selmix_hf.reports.metrics import classification_metrics
from selmix_hf.reports.registry import METRICS
from selmix_hf.reports.tables import before_after_table, interval_note, markdown_table, mean_and_sd, seeds_table


def report(right_of_4):
    """Two classes of four samples, so many of the second one right."""
    counts = torch.tensor([[4, 0], [4 - right_of_4, right_of_4]])
    return classification_metrics(counts, class_names=["cat", "dog"])


pytestmark = pytest.mark.usefixtures("few_refit_steps")


def test_a_table_is_padded_markdown():
    table = markdown_table(["", "a"], [["first", "1"], ["b", "1.25"]])
    assert table.splitlines() == [
        "|       |    a |",
        "| ----- | ---: |",
        "| first |    1 |",
        "| b     | 1.25 |",
    ]


def test_mean_and_sample_standard_deviation():
    assert mean_and_sd([0.5, 0.7]) == "0.600 ± 0.141"
    assert mean_and_sd([0.5]) == "0.500"
    assert mean_and_sd([0.5, 0.5]) == "0.500"


def test_before_and_after():
    table = before_after_table([report(1)], [report(3)], per_class=True).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert rows[0] == ["", "before", "after", "95% interval", "change"]
    low, high = binomtest(3, 4).proportion_ci(0.95, method="exact")  # its lower end is that of the worst class
    assert rows[3] == ["worst-class recall", "0.250", "0.750", f"{low:.3f} to 0.997", "+0.500"]
    assert high < 0.997
    assert rows[7] == ["accuracy", "0.625", "0.875", "", "+0.250"]
    assert rows[8] == ["macro-F1", "0.564", "0.873", "", "+0.309"]  # of 8/11 and 2/5, and of 8/9 and 6/7
    assert rows[9] == ["worst class", "dog", "dog", "", ""]
    assert [row[0] for row in rows[10:]] == ["recall of cat", "recall of dog"]
    ends = [end[1] for end in recall_intervals(np.array([[4, 0], [1, 3]]))]
    assert rows[11][3] == "{:.3f} to {:.3f}".format(*ends)
    assert [row[3] for row in rows[2:7] if row[0] != "worst-class recall"] == [""] * 4


def test_before_and_after_over_seeds_with_intervals():
    intervals = dict.fromkeys(METRICS, (0.3, -0.1, 0.5))
    table = before_after_table([report(1)] * 2, [report(2), report(3)], intervals, per_class=True).splitlines()
    cells = [cell.strip() for cell in table[3].split("|")[1:-1]]
    ends = f"{report(2)['min_recall_low']:.3f} to {report(3)['min_recall_high']:.3f}"  # of the two seeds
    assert cells == ["worst-class recall", "0.250", "0.625 ± 0.177", ends, "+0.375", "-0.100 to +0.500"]
    assert len({len(line) for line in table}) == 1


def test_methods_over_seeds():
    table = seeds_table({"start": [report(1), report(1)], "SelMix": [report(2), report(3)]}).splitlines()
    assert len(table) == 4
    ends = f"{report(2)['min_recall_low']:.3f} to {report(3)['min_recall_high']:.3f}"
    assert [cell.strip() for cell in table[3].split("|")][3:5] == ["0.625 ± 0.177", ends]


def test_a_report_without_intervals_is_shown_without_them():
    old = {name: value for name, value in report(2).items() if "recall_" not in name}
    table = before_after_table([old], [old], per_class=True).splitlines()
    assert [cell.strip() for cell in table[3].split("|")[1:-1]] == [
        "worst-class recall",
        "0.500",
        "0.500",
        "",
        "+0.000",
    ]


def test_the_note_tells_what_several_seeds_show():
    assert "over the choice of test images" in interval_note("test images")
    assert "lowest end to the highest" in interval_note("texts", 2) and "seed" not in interval_note("texts", 1)


def hits_of_ten(hits, **options):
    """A report of classes of ten samples; the misses go to the next class."""
    hits_K = torch.tensor(hits)
    return classification_metrics(torch.diag(hits_K) + torch.diag(10 - hits_K).roll(1, 1), **options)


def rows_of(table):
    return {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()
    }


FEW, MANY = [0, 0, 2, *[8] * 7], [0, 0, 2, 4, *[8] * 16]
BETTER = [1, 0, 4, 4, *[8] * 16]


def test_the_worst_share_is_shown_where_it_is_more_than_one_class():
    """The worst tenth of twenty, the worst 15% of twenty, and of ten the tenth, which is the worst class."""
    before, after = hits_of_ten(MANY), hits_of_ten(BETTER)
    rows = rows_of(before_after_table([before], [after]))
    ends = f"{after['worst_share_recall_low']:.3f} to {after['worst_share_recall_high']:.3f}"
    assert rows["mean recall of the worst tenth"] == ["0.000", "0.050", ends, "+0.050"]
    assert [*rows][2:6] == [
        "mean recall",
        "worst-class recall",
        "mean recall of the worst tenth",
        "classes at recall 0",
    ]
    other = rows_of(before_after_table(*[[hits_of_ten(hits, worst_share=0.15)] for hits in (MANY, BETTER)]))
    assert other["mean recall of the worst 15%"][:2] == ["0.067", "0.167"]
    assert not any("worst tenth" in row for row in rows_of(before_after_table([hits_of_ten(FEW)] * 2, [before] * 2)))


def test_classes_at_zero_are_counted_where_a_side_has_one():
    some, none, two = hits_of_ten(MANY), hits_of_ten([3] * 20), hits_of_ten(BETTER)
    assert rows_of(before_after_table([some], [none]))["classes at recall 0"] == ["2", "0", "", "-2"]
    assert "classes at recall 0" not in rows_of(before_after_table([none], [none]))
    intervals = {"zero_recall_classes": (-0.5, -2.0, 0.5)}
    row = rows_of(before_after_table([some] * 2, [some, two], intervals))["classes at recall 0"]
    assert row == ["2", "1.5 ± 0.7", "", "-0.5", "-2 to +0.5"]


def test_a_record_of_before_the_worst_share_is_shown_without_it():
    new = hits_of_ten(MANY)
    old = {name: value for name, value in new.items() if not name.startswith(("worst_share", "zero_recall"))}
    for sides in ([old, old], [old, new], [new, old]):
        table = before_after_table(*[[side] for side in sides])
        assert "worst tenth" not in table and "recall 0" not in table and "worst-class recall" in table
    assert "worst tenth" not in seeds_table({"start": [old], "SelMix": [new]})


def test_the_worst_share_over_seeds_of_several_methods():
    reports = {"start": [hits_of_ten(MANY)] * 2, "SelMix": [hits_of_ten(BETTER), hits_of_ten(MANY)]}
    header, _, start, selmix = ([c.strip() for c in row.split("|")[1:-1]] for row in seeds_table(reports).splitlines())
    place = header.index("mean recall of the worst tenth")
    assert header[place - 1 : place + 3 : 2] == ["95% interval"] * 2 and header[place + 2] == "classes at recall 0"
    low, high = reports["SelMix"][1]["worst_share_recall_low"], reports["SelMix"][0]["worst_share_recall_high"]
    assert selmix[place : place + 3] == ["0.025 ± 0.035", f"{low:.3f} to {high:.3f}", "1.5 ± 0.7"]
    assert (start[place], start[place + 2]) == ("0.000", "2")


def test_of_many_classes_the_worst_ten_before_and_after_are_shown():
    right = torch.arange(30)
    sides = []
    for hits in (right, right.flip(0)):  # of 40 samples a class; the misses go to the next class
        counts = torch.diag(hits + 1) + torch.diag(39 - hits).roll(1, 1)
        sides.append([classification_metrics(counts, train_counts=[5] * 15 + [200] * 15)])
    lines = [line.split("|")[1].strip() for line in before_after_table(*sides, per_class=True).splitlines()[2:]]
    assert "recall, many (over 100 images)" in lines and "recall, medium (20 to 100)" not in lines
    shown = [line for line in lines if line.startswith("recall of ")]
    assert shown == [f"recall of {k}" for k in (*range(10), *range(29, 19, -1))]


def test_a_table_over_a_hundred_texts():
    reports = [{**dict.fromkeys(METRICS, 0.5), "worst_class": "images"}]
    table = before_after_table(reports, reports, samples="texts")
    assert "recall, many (over 100 texts)" in table and "images" in table

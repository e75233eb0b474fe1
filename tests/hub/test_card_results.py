"""Which evaluations a card shows, and their table."""

from cards import many_classes

from selmix_hf.hub.card_results import reports_in, results_text


def test_which_report_counts():
    """Those of the weights that were kept: never the start's, nor those of a later step, in their place."""
    logs = [{"step": s, f"{p}_mean_recall": v} for s, p, v in [(0, "eval", 1), (0, "test", 2), (5, "eval", 3)]]
    assert reports_in(logs, 5) == ("eval", {"mean_recall": 1}, {"mean_recall": 3})
    tested = [*logs, {"step": 5, "test_mean_recall": 4}]
    assert reports_in(tested, 5) == ("test", {"mean_recall": 2}, {"mean_recall": 4})
    assert reports_in(logs, 0) == ("test", None, {"mean_recall": 2})
    assert reports_in(tested, 3) == reports_in([{"step": 0, "loss": 1}], 0) == ("eval", None, None)


def test_of_many_classes_the_worst_are_shown_and_all_are_a_click_away():
    names = [f"class {k}" for k in range(60)]
    after = {"mean_recall": 0.5, "min_recall": 0.0, "g_mean": 0.0, "h_mean": 0.0, "smallest_coverage": 0.0}
    after |= {f"recall/{name}": k / 60 for k, name in enumerate(names)}
    before = {**after, "recall/class 59": 0.0}
    table, _, every = results_text("test", before, after, "images").partition("<details>")
    assert [line.split("|")[1].strip() for line in table.splitlines() if "recall of" in line] == [
        f"recall of {name}" for name in [names[0], names[59], *names[1:10]]
    ]
    assert all(f"| {name} " in every for name in names) and every.endswith("</details>")


def test_of_many_classes_measured_after_the_run_alone():
    names = [f"class {k}" for k in range(30)]
    before = {"mean_recall": 0.5, "min_recall": 0.0, "g_mean": 0.0, "h_mean": 0.0, "smallest_coverage": 0.0}
    after = before | {f"recall/{name}": k / 30 for k, name in enumerate(names)}
    table, _, every = results_text("test", before, after, "images").partition("<details>")
    assert table.count("recall of ") == 10 and "recall of class 9 " in table
    assert "before" in table and "before" not in every and all(f"| {name} " in every for name in names)


def rows_of(objective, before, after):
    lines = results_text("test", before, after, "images", objective=objective).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"][2:]


def test_the_objective_has_a_row_where_no_other_shows_it():
    before, after = {"psi": 0.1, "h_mean": 0.4, "head_recall": 0.3}, {"psi": 0.2, "h_mean": 0.5, "head_recall": 0.6}
    own = ["objective `h_mean`", "0.100", "0.200", "", "+0.100"]
    h_mean = ["H-mean", "0.400", "0.500", "", "+0.100"]
    assert rows_of("h_mean", before, after) == [own, h_mean]  # a function of that name, which is another one
    assert rows_of("h_mean", {**before, "psi": 0.4}, {**after, "psi": 0.5}) == [h_mean]
    assert rows_of("head_recall", before, after)[0] == ["objective `head_recall`", *own[1:]]
    del before["psi"], after["psi"]
    assert rows_of("h_mean", before, after) == rows_of("trace", before, after) == [h_mean]
    assert rows_of("head_recall", before, after)[0] == ["objective `head_recall`", "0.300", "0.600", "", "+0.300"]


def test_the_row_of_macro_f1_says_where_it_is_balanced():
    """The objective is balanced by default, the metric of its name is not."""
    both = {"macro_f1": 0.5, "balanced_macro_f1": 0.25}
    as_it_is = ["macro-F1", "0.500", "0.500", "", "+0.000"]
    balanced = ["objective `macro_f1` (balanced macro-F1)", "0.250", "0.250", "", "+0.000"]
    reports = [{**both, "psi": 0.25}] * 2
    assert rows_of("macro_f1", *reports) == [balanced, as_it_is]
    assert rows_of("macro_f1", *[{**both, "psi": 0.5}] * 2) == [as_it_is]
    assert rows_of("macro_f1", *[{"balanced_macro_f1": 0.25}] * 2) == [balanced]  # a record of older versions


def test_a_start_without_the_objective_has_a_blank_cell():
    rows = rows_of("trace", {"h_mean": 0.4}, {"h_mean": 0.5, "psi": 0.2})
    assert rows[0] == ["objective `trace`", "", "0.200", "", ""]


def test_of_many_classes_the_worst_share_has_a_row():
    before, after = many_classes([0, 0, 3]), many_classes([0, 3, 3])
    text = results_text("test", before, after, "images")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    rows = {row[0]: row[1:] for row in cells}
    ends = f"{after['worst_share_recall_low']:.3f} to {after['worst_share_recall_high']:.3f}"
    assert rows["mean recall of the worst tenth"] == ["0.100", "0.200", ends, "+0.100"]
    assert rows["classes at recall 0"] == ["2", "1", "", "-1"]
    assert "That of the worst share is `selmix_hf.worst_share_recall_interval`'s." in text
    old = {name: value for name, value in before.items() if not name.startswith(("worst_share", "zero_recall"))}
    assert "worst tenth" not in (text := results_text("test", old, after, "images")) and "worst-class recall" in text

"""The parts of the report on hand-made records."""

from selmix_hf.studies.analysis.report import auto_against_fixed, convergence_table, plot_study, study_table


def row(label, value, psis, curve=(0.1, 0.2), s=None):
    runs = [
        {"before": {"psi": 0.1, "mean_recall": 0.5}, "after": {"psi": psi, "mean_recall": 0.6}, "steps": [0, 10]}
        for psi in psis
    ]
    for one in runs:
        one |= {"psi": list(curve), "inverse_temperature": s}
    return {"label": label, "value": value, "runs": runs}


STUDY = {
    "min_recall": [
        row("auto", None, [0.30, 0.32], s=50.0),
        row("1", 1.0, [0.20, 0.22], curve=(0.1, 0.13)),
        row("100", 100.0, [0.33, 0.31]),
    ]
}


def test_auto_stands_beside_the_best_fixed_temperature():
    line = auto_against_fixed({"digits": STUDY}).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "digits",
        "worst-class recall",
        "50",
        "0.310 ± 0.014",
        "100",
        "0.320 ± 0.014",
        "-0.010 ± 0.028",
        "0.210",
    ]


def test_how_fast_it_rises():
    lines = [[cell.strip() for cell in line.split("|")[2:4]] for line in convergence_table(STUDY).splitlines()[2:]]
    assert lines == [["10", "0.150"], ["-", "0.115"], ["10", "0.150"]]


def test_a_table_shows_the_start_once_or_in_every_row():
    cells = [cell.strip() for cell in study_table(STUDY).splitlines()[2].strip("|").split("|")]
    assert cells == ["the start", "0.100", "0.500"]
    differing = {"h_mean": [row("10", 10.0, [0.3]), row("20", 20.0, [0.4])]}
    differing["h_mean"][1]["runs"][0]["before"] = {"psi": 0.2, "mean_recall": 0.4}
    lines = study_table(differing).splitlines()[2:]
    assert ["0.100 → 0.300" in lines[0], "0.200 → 0.400" in lines[1], len(lines)] == [True, True, 2]


def test_a_plot_has_a_panel_an_objective():
    figure = plot_study(STUDY | {"h_mean": STUDY["min_recall"]}, "s", "title")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["worst-class recall", "H-mean"]
    assert figure.axes[0].get_xscale() == "log"

"""The analysis recipe on miniatures, and the parts of its report on hand-made records."""

import json

import numpy as np
import pytest
import torch
from miniature import options_for, write_dataset_and_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from recipes import analysis
from selmix_hf import LongTailedSplit
from selmix_hf.data.classes import set_class_names
from selmix_hf.studies.analysis.measured_runs import long_tailed_profile
from selmix_hf.studies.analysis.report import auto_against_fixed, convergence_table, plot_study, study_table

pytestmark = pytest.mark.usefixtures("few_refit_steps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset_and_checkpoint(tmp_path_factory.mktemp("analysis"))


def run(folder, out, *more):
    return analysis.main([*options_for(folder, out, pairs=8), *map(str, more)])


def test_every_study_of_a_frozen_backbone(folder, tmp_path, capsys):
    frozen = ["pair_sampling", "inverse_temperature", "beta_min", "validation_size", "imbalance"]
    more = ["--freeze_backbone", "true", "--studies", *frozen, "--objectives", "min_recall"]
    record = run(folder, tmp_path / "out", *more)
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == record
    assert list(record["studies"]) == frozen
    labels = {name: [row["label"] for row in study["min_recall"]] for name, study in record["studies"].items()}
    assert labels["pair_sampling"] == ["selmix", "uniform", "greedy"]
    assert labels["validation_size"] == ["5", "10 (all)"]
    assert labels["imbalance"] == ["10", "15 (2 images)"]
    fixed = [row["value"] for row in record["studies"]["inverse_temperature"]["min_recall"][2:]]
    assert len(fixed) == 11 and np.log10(fixed[-1] / fixed[0]) == pytest.approx(5, abs=0.01)
    first = [record["studies"][name]["min_recall"][0]["runs"][0] for name in ("pair_sampling", "inverse_temperature")]
    assert first[0]["after"] == first[1]["after"] and "psi" not in first[0]  # one run for both
    assert first[1]["steps"] == [0, 2] and len(first[1]["psi"]) == 2
    report = (tmp_path / "out" / "report.md").read_text()
    for name in [*frozen, "convergence"]:
        assert f"]({name}.png)" in report and (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    assert "auto − best" in report
    said = capsys.readouterr().out
    assert "How pairs are drawn:\n  min_recall, selmix: " in said and str(tmp_path / "out" / "report.md") in said


def test_the_backbone_study_trains_all_weights(folder, tmp_path):
    whole = json.dumps({"learning_rate": 0.01, "backbone_learning_rate": 0.01, "max_steps": 2})
    more = ["--freeze_backbone", "true", "--studies", "backbone", "--objectives", "h_mean", "--whole_network", whole]
    frozen, trained = run(folder, tmp_path / "out", *more)["studies"]["backbone"]["h_mean"]
    assert (frozen["label"], trained["label"]) == ("frozen", "trained")
    assert frozen["runs"][0]["before"] == trained["runs"][0]["before"]  # by stored features, and by images
    assert "steps" not in frozen["runs"][0]


def test_steering_and_measured_images_are_apart(folder, tmp_path, monkeypatch):
    seen = []
    made = analysis.MeasuredRuns.trainer

    def trainer(self, config, train, steering):
        seen.append((self, set(train.tolist()), set(steering.tolist())))
        return made(self, config, train, steering)

    monkeypatch.setattr(analysis.MeasuredRuns, "trainer", trainer)
    more = ["--freeze_backbone", "true", "--studies", "imbalance", "--seeds", 0, 1]
    run(folder, tmp_path / "out", *more, "--objectives", "h_mean")
    validation = set(LongTailedSplit.load(tmp_path / "out" / "split.json").validation)
    for start, train, steering in seen:
        (seed,) = [seed for seed in (0, 1) if set(start.halves(seed)[0].tolist()) == steering]
        measured = set(start.halves(seed)[1].tolist())
        assert not steering & measured and not train & (steering | measured)
        assert len(steering | measured) == len(validation) == 60
        for rows in (steering, measured):
            assert np.bincount(start.labels_N[sorted(rows)]).tolist() == [10, 10, 10]
    assert len({frozenset(steering) for *_, steering in seen}) == 2


def test_an_imbalance_that_the_images_do_not_allow_is_left_out(folder, tmp_path):
    split = {
        "train": [*range(20), *range(60, 66), 120],
        "validation": [*range(20, 60), *range(66, 120), *range(121, 180)],
    }
    (tmp_path / "split.json").write_text(json.dumps(split))  # nothing is left to draw from
    more = ["--freeze_backbone", "true", "--studies", "imbalance", "--objectives", "h_mean"]
    record = run(folder, tmp_path / "out", *more, "--split", tmp_path / "split.json")
    assert [row["label"] for row in record["studies"]["imbalance"]["h_mean"]] == ["as it is"]


def test_imbalance_where_all_weights_are_trained(folder, tmp_path):
    """The head is fitted to the features of each training set, which are not stored then."""
    record = run(folder, tmp_path / "out", "--studies", "imbalance", "--objectives", "h_mean", "--max_steps", 2)
    assert [row["label"] for row in record["studies"]["imbalance"]["h_mean"]] == ["10", "15 (2 images)"]


def test_features_are_kept_as_the_options_say(folder, tmp_path):
    more = ["--freeze_backbone", "true", "--feature_dtype", "float16", "--studies", "pair_sampling", "imbalance"]
    run(folder, tmp_path / "out", *more, "--objectives", "h_mean")
    (path,) = (tmp_path / "out" / "features").glob("*.safetensors")
    assert load_file(path)["features"].dtype == torch.float16


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["a", "b", "c", "d"], "tells 4 classes apart, the data have 3 names"),
        (["b", "a", "c"], "the same classes in another order: class 0 is 'b' in the model and 'a' in the dataset"),
    ],
)
def test_a_checkpoint_of_other_classes_is_told_in_a_sentence(classes, sentence, folder, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(folder / "checkpoint")
    config = type(model.config)(
        architecture=model.config.architecture, pretrained_cfg=model.config.pretrained_cfg, num_labels=len(classes)
    )
    set_class_names(config, classes)
    type(model)(config).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match=f"analysis.py: .*{sentence}"):
        run(folder, tmp_path / "out", "--model_name_or_path", tmp_path / "other", "--studies", "pair_sampling")


def test_training_sets_of_another_imbalance():
    counts = np.array([20, 100, 45])
    assert long_tailed_profile(counts, 1).tolist() == [1, 100, 10]
    assert long_tailed_profile(counts, 25).tolist() == [25, 100, 50]
    assert long_tailed_profile(counts, 0).tolist() == long_tailed_profile(counts, 1).tolist()
    assert long_tailed_profile(np.array([1, 1]), 2).tolist() == [1, 1]
    recorded = {  # what the studies of docs/analysis.md drew
        45: [4500, 2698, 1617, 969, 581, 348, 209, 125, 75, 45],
        2: [4500, 1909, 810, 343, 146, 62, 26, 11, 5, 2],
    }
    for smallest, drawn in recorded.items():
        assert long_tailed_profile(np.arange(4500, 0, -450), smallest).tolist() == drawn


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--studies", "temperature"], r"--studies: unknown temperature; expected some of pair_sampling, "),
        (["--dataset", "nowhere"], "is no folder here"),
        (["--whole_network", "{"], "whole_network"),
        (["--sampling", "class_balanced"], "the studies are of pairs, and --sampling draws single samples"),
        (["--objectives", "mean"], "unknown objective 'mean'; did you mean 'h_mean'"),
    ],
)
def test_what_is_wrong_is_said_first(more, sentence, folder, tmp_path):
    with pytest.raises(SystemExit, match=sentence):
        run(folder, tmp_path / "out", *more)


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

"""The analysis recipe on miniatures: which settings the studies try."""

import json

import numpy as np
import pytest
from analysis_runs import run

pytestmark = pytest.mark.usefixtures("few_refit_steps")


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


def test_an_imbalance_that_the_images_do_not_allow_is_left_out(folder, tmp_path):
    split = {
        "train": [*range(20), *range(60, 66), 120],
        "validation": [*range(20, 60), *range(66, 120), *range(121, 180)],
    }
    (tmp_path / "split.json").write_text(json.dumps(split))  # nothing is left to draw from
    more = ["--freeze_backbone", "true", "--studies", "imbalance", "--objectives", "h_mean"]
    record = run(folder, tmp_path / "out", *more, "--split", tmp_path / "split.json")
    assert [row["label"] for row in record["studies"]["imbalance"]["h_mean"]] == ["as it is"]


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

"""The comparison recipe on miniatures, its search and its report on hand-made records."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from miniature import options_for, write_dataset_and_checkpoint

from recipes import compare
from selmix_hf.head_fitting import retraining as head
from selmix_hf.studies.compare.by_trainer import ByTrainer
from selmix_hf.studies.compare.comparison import Comparison
from selmix_hf.studies.compare.methods import METHODS, SELMIX
from selmix_hf.studies.compare.on_features import OnFeatures
from selmix_hf.studies.compare.report import dominated, front_lines, plot_front, table
from selmix_hf.studies.one_start import ROW, OneStart

pytestmark = pytest.mark.usefixtures("few_refit_steps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset_and_checkpoint(tmp_path_factory.mktemp("compare"))


def run(folder, out, *more):
    return compare.main([*options_for(folder, out, pairs=4), *map(str, more)])


def test_every_method_from_a_frozen_backbone(folder, tmp_path, capsys, monkeypatch):
    fit, fit_head = ByTrainer.fit, OnFeatures.fit
    more = ["--freeze_backbone", "true", "--objectives", "min_recall", "mean_recall", "--seeds", "0", "1"]
    record = run(folder, tmp_path, *more, "--num_settings", "2")
    assert json.loads((tmp_path / "compare.json").read_text()) == record
    assert list(record["objectives"]) == ["min_recall", "mean_recall"]
    for objective, methods in record["objectives"].items():
        assert list(methods) == [name for name in METHODS if name != "cost-sensitive"]
        for name, result in methods.items():
            assert len(result["runs"]) == (2 if METHODS[name].draws else 1)
            assert all(report["psi"] == report[objective] for report in result["runs"])
            assert len(result["tried"]) == (0 if name == "the start" else 2)
            if result["tried"]:
                best = max(row["score"] for row in result["tried"])
                assert result["setting"] in [row["setting"] for row in result["tried"] if row["score"] == best]
        assert methods[SELMIX]["selmix_minus"] is None
        start, own = (
            np.mean([report[objective] for report in methods[name]["runs"]]) for name in ("the start", SELMIX)
        )
        change, low, high = methods["the start"]["selmix_minus"][objective]
        assert change == pytest.approx(own - start, abs=1e-6) and low <= change <= high
    report = (tmp_path / "compare.md").read_text()
    assert table(record) in report and (tmp_path / "front.png").stat().st_size > 5000
    assert record["objectives"]["min_recall"][SELMIX]["peak_memory_gb"]["process"] >= 0
    said = capsys.readouterr().out
    # the same command again, with another objective: what was fitted is there
    made = []
    monkeypatch.setattr(ByTrainer, "fit", lambda *given: made.append(given[2]) or fit(*given))
    monkeypatch.setattr(OnFeatures, "fit", lambda *given: made.append(given[2]) or fit_head(*given))
    monkeypatch.setattr(compare, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # what is left: of earlier fits
    more[2:5] = ["--objectives", "min_recall", "h_mean", "--methods", "cost-sensitive head"]
    later = run(folder, tmp_path, *more, "--num_settings", "2")
    assert set(made) == {"h_mean"}
    again = later["objectives"]["min_recall"]
    assert later["seconds"] > sum(2 * result["seconds"] for result in again.values())  # two seeds, and the search
    assert again == {name: record["objectives"]["min_recall"][name] for name in ("cost-sensitive head", SELMIX)}
    assert "For min_recall:\n  the start: " in said and "Table, numbers and picture are in" in said


def test_whole_network_methods_train_all_weights_on_as_many_images(folder, tmp_path, monkeypatch):
    seen: dict[str, list[int]] = {}
    chosen: list[int] = []
    made = OneStart.trainer

    def trainer(self, config, *rows, **own):
        run = made(self, config, *rows, **own)
        images, forward = [], run.model.forward
        run.model.forward = lambda **inputs: images.append(len(inputs["pixel_values"])) or forward(**inputs)
        step = run.training_step

        def counted(*given):
            images.clear()
            loss = step(*given)
            seen.setdefault(config.sampling or config.pair_sampling, []).append(sum(images))
            return loss

        run.training_step = counted
        start = {name: weight.clone() for name, weight in run.model.named_parameters()}
        load = run._load_best_model

        def best():
            moved = [name for name, weight in run.model.named_parameters() if not torch.equal(start[name], weight)]
            assert {name.startswith(tuple(run.head.names)) for name in moved} == {True, False}
            load()
            scores = [row["eval_selection_score"] for row in run.state.log_history if "eval_selection_score" in row]
            assert len(scores) == 3 and run.state.best_metric == max(scores)  # the start, and two periods
            chosen.append(run.state.best_global_step)

        run._load_best_model = best
        return run

    monkeypatch.setattr(OneStart, "trainer", trainer)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()  # what lies in output_dir stays
    more = ["--objectives", "mean_recall", "--methods", "cost-sensitive", "uniform mixup", "--num_settings", "1"]
    methods = run(folder, tmp_path, *more, "--beta_min", "0.5")["objectives"]["mean_recall"]
    assert list(methods) == ["cost-sensitive", "uniform mixup", SELMIX]
    assert methods[SELMIX]["setting"] == {} and methods[SELMIX]["tried"] == []
    assert seen == {"natural": [8] * 4, "uniform": [8] * 4, "selmix": [8] * 4} and len(chosen) == 3
    assert not (tmp_path / "fits" / "unfinished").exists()
    assert (tmp_path / "run" / "mine").is_file()


def test_rivals_have_the_budget_and_the_other_half(folder, tmp_path, monkeypatch):
    """Images of a head's training, and the validation images that the search fits on and measures."""
    budgets, fitted, measured = [], [], []
    descend, fit, counts = head._descend, OnFeatures.fit, Comparison._counts
    monkeypatch.setattr(
        head,
        "_descend",
        lambda *given, **own: budgets.append((own["steps"], own["batch_size"])) or descend(*given, **own),
    )
    monkeypatch.setattr(OnFeatures, "fit", lambda *given: fitted.append(set(given[-1].tolist())) or fit(*given))
    monkeypatch.setattr(
        Comparison,
        "_counts",
        lambda self, rows_N, predicted: measured.append(set(rows_N.tolist())) or counts(self, rows_N, predicted),
    )
    monkeypatch.setattr(ByTrainer, "fit", lambda *given: lambda rows_N: torch.zeros(len(rows_N), dtype=torch.long))
    rivals = ["class bias", "cost-sensitive head", "cRT"]
    run(folder, tmp_path, "--freeze_backbone", "true", "--objectives", "min_recall", "h_mean", "--methods", *rivals)
    assert set(budgets) == {(4, 8)}
    searches = [(a, b) for a, b in zip(fitted, measured, strict=False) if len(a) == 30][:10]
    assert len(searches) == 10 and all(len(b) == 30 and not a & b for a, b in searches)


def test_the_search_measures_where_it_did_not_fit(folder, tmp_path, monkeypatch):
    seen = []

    def fit(self, start, objective, setting, seed, steering_N):
        seen.append(set(steering_N.tolist()))

        def predictor(rows_N):
            seen.append(set(rows_N.tolist()))
            return torch.zeros(len(rows_N), dtype=torch.long)

        return predictor

    monkeypatch.setattr(ByTrainer, "fit", fit)
    run(folder, tmp_path, "--freeze_backbone", "true", "--objectives", "min_recall", "--methods", "the start")
    fitted, measured = seen[0:-2:2], seen[1:-2:2]
    assert len(fitted) == 10 and all(not a & b for a, b in zip(fitted, measured, strict=True))
    assert fitted[0] | fitted[1] == seen[-2] and len(seen[-2]) == 60  # in the end all steer
    assert not seen[-2] & seen[-1] and len(seen[-1]) == 60  # and the test images are looked at


def test_rivals_train_on_validation_images_where_they_are_told_to(folder, tmp_path, monkeypatch):
    made, runs = OneStart.trainer, []

    def trainer(self, config, train_N, held_N, **own):
        trainer = made(self, config, train_N, held_N, **own)
        shares_K = own["compute_loss_func"].train_prior_K.tolist() if own else None
        runs.append(
            (config.sampling or config.pair_sampling, config.gain_set_use, len(trainer.train_dataset), shares_K)
        )
        return trainer

    monkeypatch.setattr(OneStart, "trainer", trainer)
    more = ["--objectives", "mean_recall", "--seeds", "0"]
    for use, size_K in (("train", np.array([30, 9, 3]) + 20), ("refit", np.array([30, 9, 3]))):
        runs.clear()
        whole = [*more, "--gain_set_use", use, "--methods", "cost-sensitive", "uniform mixup", "--num_settings", "1"]
        record = run(folder, tmp_path / use, *whole)
        assert [run[:3] for run in runs] == [(kind, use, size_K.sum()) for kind in ("natural", "uniform", "selmix")]
        assert runs[0][3] == pytest.approx(size_K / size_K.sum())
        assert table(record).count(f"gain set: {use}") == 3
    runs.clear()
    more += ["--gain_set_use", "train", "--freeze_backbone", "true", "--methods", "uniform mixup", "--folds", "1"]
    tried = run(folder, tmp_path / "head", *more)["objectives"]["mean_recall"][SELMIX]["tried"]
    assert {run[:2] for run in runs} == {
        ("uniform", "train"),
        *(("selmix", use) for use in ("train", "refit", "steer")),
    }
    assert [row["setting"] for row in tried] == [
        {"gain_set_use": "train"},
        {"gain_set_use": "refit"},
        {"gain_set_use": "steer"},
        {"cross": True},  # either half steers
        {"gain_set_use": "train", "scale": 0.3},
    ]


def test_a_share_of_a_class_bias_follows_what_was_trained(folder, tmp_path, monkeypatch):
    steered = []

    def bias(trainers, objective):
        steered.append([set(trainer.gain_dataset[ROW]) for trainer in trainers])
        return torch.tensor([0.0, 0.0, 1e6])

    monkeypatch.setattr("selmix_hf.studies.compare.by_trainer.class_bias_of", bias)
    monkeypatch.setattr("selmix_hf.training.refit._STEPS", 20)
    more = ["--freeze_backbone", "true", "--objectives", "min_recall", "--methods", "the start", "--seeds", "0"]
    result = run(folder, tmp_path, *more)["objectives"]["min_recall"][SELMIX]
    refit = {"gain_set_use": "refit"}
    cross = {**refit, "cross": True}
    tried = {json.dumps(row["setting"]): row["score"] for row in result["tried"]}
    with_bias = [json.dumps({**setting, "bias_share": 0.5}) for setting in (cross, refit)]
    assert [*tried] == ["{}", json.dumps(refit), *with_bias, json.dumps(cross)]
    assert [tried[setting] for setting in with_bias] == [0, 0]  # all images in one class
    assert [len(sets) for sets in steered] == [2, 2, 1, 1]
    (first, second), (other, another) = steered[:2]
    assert not first & second and not (first | second) & (other | another) and len(first) == len(second)


def test_of_settings_with_equal_scores_the_better_recalls_are_taken(folder, tmp_path, monkeypatch):
    def fit(self, start, objective, setting, seed, steering_N):
        known = 2 if setting == METHODS["LWS"].tried[1] else 1  # so many classes, the others are taken for the last
        return lambda rows_N: torch.as_tensor(start.labels_N[rows_N]).clamp(max=known - 1)

    monkeypatch.setattr(OnFeatures, "fit", fit)
    monkeypatch.setattr(ByTrainer, "fit", fit)
    more = ["--freeze_backbone", "true", "--objectives", "min_recall", "--methods", "LWS", "--seeds", "0"]
    result = run(folder, tmp_path, *more, "--num_settings", "3")["objectives"]["min_recall"]["LWS"]
    assert [row["score"] for row in result["tried"]] == [0, 0, 0]
    assert [row["setting"] for row in result["tried"]] == list(METHODS["LWS"].tried[:3])
    assert result["setting"] == METHODS["LWS"].tried[1]


def test_a_line_in_the_registry_is_all_that_a_method_needs(folder, tmp_path, monkeypatch):
    def one_class(task, setting):
        return torch.zeros_like(task.head[0]), torch.eye(3)[setting["class"]]

    only = OnFeatures(one_class, [{"class": 0}, {"class": 2}], reads_validation=True, draws=False, whole_network=False)
    monkeypatch.setitem(METHODS, "one class", only)
    more = ["--objectives", "mean_recall", "--methods", "one class"]
    record = run(folder, tmp_path, "--freeze_backbone", "true", *more, "--num_settings", "2")
    result = record["objectives"]["mean_recall"]["one class"]
    assert [row["setting"] for row in result["tried"]] == [{"class": 0}, {"class": 2}]
    assert [result["runs"][0][f"recall/{name}"] for name in "abc"] == [1, 0, 0] and len(result["runs"]) == 1
    assert "| one class" in (tmp_path / "compare.md").read_text()
    with pytest.raises(SystemExit, match="--methods: unknown one class"):
        run(folder, tmp_path, *more)


def test_mixup_that_trains_on_validation_images_is_measured_on_others(folder, tmp_path, monkeypatch):
    seen = []

    def fit(self, start, objective, setting, seed, steering_N):
        return lambda rows_N: seen.append((set(steering_N), set(rows_N))) or torch.zeros(len(rows_N), dtype=torch.long)

    monkeypatch.setattr(ByTrainer, "fit", fit)
    more = ["--freeze_backbone", "true", "--objectives", "mean_recall", "--methods", "uniform mixup"]
    for use, alike in (("steer", True), ("refit", False)):
        seen.clear()
        run(folder, tmp_path / use, *more, "--gain_set_use", use)
        fitted, measured = seen[0]  # uniform mixup's first setting
        assert (fitted == measured) == alike and bool(fitted & measured) == alike


@pytest.mark.parametrize(
    "options, message",
    [
        (["--objectives", "worst"], "unknown objective 'worst'"),
        (["--methods", "crt"], "--methods: unknown crt; expected some of 'the start', .*'cRT'"),
        (["--num_settings", "0"], "num_settings must be at least 1"),
        (["--folds", "3"], "folds 1 or 2, found 5 and 3"),
        (["--model_name_or_path", "nowhere"], "no image classifier .* could be loaded from 'nowhere'"),
        (["--validation_per_class", "0"], "there is no validation set"),
        (["--validation_per_class", "3"], "found a class with 3: set validation_per_class to 4 at least"),
        (["--sampling", "natural"], "sampling has no meaning in a comparison"),
        (["--push_to_hub", "true"], "push_to_hub has no meaning in a comparison"),
    ],
)
def test_what_is_wrong_gets_a_sentence(folder, tmp_path, options, message):
    with pytest.raises(SystemExit, match=f"compare.py: .*{message}"):
        run(folder, tmp_path, *options)


# --- the report --------------------------------------------------------------------------------------------------


def made_up(**methods):
    """A record of one objective from (mean, min) of each method."""
    results = {}
    for name, (mean, worst) in methods.items():
        report = {"psi": worst, "mean_recall": mean, "min_recall": worst, "h_mean": mean, "smallest_coverage": 0.5}
        results[name] = {"setting": {}, "runs": [report], "seconds": 1.0, "peak_memory_gb": {"process": 0.5}}
        results[name]["selmix_minus"] = None if name == SELMIX else {"min_recall": (0.01, -0.02, 0.03)}
    return {"objectives": {"min_recall": results}}


def test_a_point_is_dominated_by_one_that_is_nowhere_below_it():
    points = {"a": (0.7, 0.5), "b": (0.7, 0.6), "c": (0.8, 0.4), "d": (0.8, 0.4), "e": (0.6, 0.6)}
    assert dominated(points) == {"a", "e"}


def test_the_report_says_who_wins():
    ahead = made_up(rival=(0.8, 0.5), SelMix=(0.75, 0.6))
    assert front_lines(ahead) == (
        "- SelMix for worst-class recall: mean 0.750, worst 0.600; no rival has more of one without less of the other."
    )
    behind = made_up(rival=(0.8, 0.65), SelMix=(0.75, 0.6))
    assert front_lines(behind).endswith(
        "1 of 1 results of rivals has as much of both or more, such as rival for worst-class recall (0.800, 0.650)."
    )
    assert "no rival" in front_lines(made_up(rival=(0.75, 0.6), SelMix=(0.75, 0.6)))  # a tie
    assert "+0.010 | -0.020 to +0.030" in table(behind)
    shares = made_up(rival=(0.8, 0.5), SelMix=(0.75, 0.6))["objectives"]["min_recall"]
    for result in shares.values():
        result["runs"][0] |= {
            "worst_share_recall": 0.7,
            "worst_share_recall_low": 0.65,
            "worst_share_recall_high": 0.8,
        }
    record = {"objectives": {"worst_share_recall": shares}}
    assert "SelMix for mean recall of the worst share: mean 0.750, worst 0.700" in front_lines(record)
    assert "0.650 to 0.800" in table(record) and "worst-class recall" not in table(record)
    axes = plot_front(behind, "title").axes[0]
    assert axes.get_xlabel() == "mean recall" and axes.get_ylabel() == "worst-class recall"

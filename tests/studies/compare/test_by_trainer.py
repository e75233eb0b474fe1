"""Methods that the trainer runs: budgets, what they train on, class biases."""

import json

import numpy as np
import pytest
import torch
from compare_runs import run

from selmix_hf.studies.compare.methods import SELMIX
from selmix_hf.studies.compare.report import table
from selmix_hf.studies.one_start import ROW, OneStart

pytestmark = pytest.mark.usefixtures("few_refit_steps")


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

"""The search: what it fits on, measures and chooses, and what it refuses."""

import pytest
import torch
from compare_runs import run

from selmix_hf.studies.compare.by_trainer import ByTrainer
from selmix_hf.studies.compare.methods import METHODS
from selmix_hf.studies.compare.on_features import OnFeatures

pytestmark = pytest.mark.usefixtures("few_refit_steps")


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
    ("options", "message"),
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

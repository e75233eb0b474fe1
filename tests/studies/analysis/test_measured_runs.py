"""Each run of a study: what trains, steers and is measured."""

import numpy as np
import pytest
import torch
from analysis_runs import run
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from recipes import analysis
from selmix_hf import LongTailedSplit
from selmix_hf.data.classes import set_class_names
from selmix_hf.studies.analysis.measured_runs import long_tailed_profile

pytestmark = pytest.mark.usefixtures("few_refit_steps")


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
        (["b", "a", "d"], "the checkpoint and the data number their classes differently: 'a' is class 1 of 3 names"),
    ],
)
def test_a_checkpoint_of_other_classes_is_told_in_a_sentence(classes, sentence, folder, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(folder / "checkpoint")
    config = type(model.config)(
        architecture=model.config.architecture, pretrained_cfg=model.config.pretrained_cfg, num_labels=len(classes)
    )
    set_class_names(config, classes)
    other = type(model)(config)
    other.timm_model.get_classifier().bias.data.fill_(1.0)  # else the head would be new
    other.save_pretrained(tmp_path / "other")
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

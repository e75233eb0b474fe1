"""Passes over whole datasets: the same numbers by whatever way, views that differ, progress that is shown."""

import numpy as np
import pytest
import tiny
import torch
from runs import BOTH

from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.training.passes import Passes


@BOTH
def test_frozen_and_evaluation_passes_agree_with_plain_evaluation(freeze, tmp_path, monkeypatch):
    """The gain set is evaluated from the pass of the refresh, an equal set by a pass of its own: same numbers."""
    calls = []
    statistics = DatasetPass.statistics
    monkeypatch.setattr(DatasetPass, "statistics", lambda *a, **own: calls.append(a[1]) or statistics(*a, **own))
    gain = tiny.images(tiny.GAIN_COUNTS, seed=1)
    sets = {"gain": gain, "copy": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    options = {"metric_for_best_model": "eval_gain_selection_score", "freeze_backbone": freeze}
    run = tiny.trainer(tmp_path, "resnet", gain_dataset=gain, eval_dataset=sets, **options)
    run.train()
    logs = {name: [log for log in run.state.log_history if f"eval_{name}_psi" in log] for name in sets}
    assert [log["step"] for log in logs["gain"]] == [0, 4, 8]
    for ours, plain in zip(logs["gain"], logs["copy"], strict=True):
        names = [key.removeprefix("eval_gain_") for key in ours if key.startswith("eval_gain_")]
        for name in {*names} - {"runtime", "samples_per_second", "steps_per_second", "worst_class"}:
            assert ours[f"eval_gain_{name}"] == pytest.approx(plain[f"eval_copy_{name}"], abs=1e-6), name
    assert sum(dataset is sets["copy"] for dataset in calls) == 3
    assert len(calls) == 6  # one look at the gain set at steps 0, 4 and 8, for both purposes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_feature_views_are_different_views_of_the_same_image(num_workers, tmp_path):
    options = {"freeze_backbone": True, "feature_views": 3, "dataloader_num_workers": num_workers, "max_steps": 4}
    transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
    run = tiny.trainer(tmp_path, "convnext", **transforms, **options, **tiny.BARE)
    stored = run.store_features()
    assert len(stored.views) == 3 and len(stored) == 3 * sum(tiny.TRAIN_COUNTS)
    first, second, third = stored.views
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other).abs().amax(1).min() > 0  # every image
    assert torch.equal(torch.stack(stored.views), torch.stack(run.store_features().views))
    run.train()
    assert all(np.isfinite(tiny.losses(run)))


def test_stored_views_do_not_depend_on_workers_and_batches(tmp_path):
    def stored(folder, **options):
        transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
        run = tiny.trainer(tmp_path / folder, "convnext", freeze_backbone=True, **transforms, **options)
        return torch.stack(run.store_features().views)

    plain = stored("plain")
    assert torch.allclose(plain, stored("workers", dataloader_num_workers=2), atol=1e-5)
    assert torch.allclose(plain, stored("batches", per_device_eval_batch_size=5), atol=1e-5)


def test_predict_gives_logits_of_raw_images(tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=True, max_steps=4)
    run.train()
    test = tiny.images((3, 3, 3, 3), seed=5)
    pixels = torch.stack([tiny.to_tensor(image) for image in test["image"]])
    with torch.no_grad():
        logits = run.model.eval()(pixel_values=pixels).logits.numpy()
    assert np.abs(run.predict(test).predictions - logits).max() < 1e-5
    assert run.predict(test.remove_columns("label")).predictions.shape == (12, 4)


@pytest.mark.parametrize("quiet", [False, True], ids=["bars", "no bars"])
def test_the_feature_pass_shows_its_progress(quiet, tmp_path, capsys):
    run = tiny.trainer(tmp_path, freeze_backbone=True, max_steps=4, disable_tqdm=quiet, **tiny.BARE)
    run.train()
    shown = capsys.readouterr().err
    assert ("33/33" in shown and "57/57" in shown and "pooled features" in shown) is not quiet
    how = run.passes.prepare, run.passes.autocast, "no"
    elsewhere = Passes(run.model, run.head, run.args, run.data_collator, *how, is_main=False)
    assert elsewhere.look.show_progress is False


def test_persistent_workers_do_not_mix_up_the_sets(tmp_path):
    run = tiny.trainer(tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    plain = tiny.trainer(tmp_path / "plain")
    test = tiny.images((2, 3, 4, 5), seed=7)
    for dataset in (None, test, None):
        ours, expected = run.evaluate(dataset), plain.evaluate(dataset)
        for name in ("eval_loss", "eval_accuracy", "eval_mean_recall"):
            assert ours[name] == pytest.approx(expected[name])


@pytest.mark.parametrize(
    "options", [{}, {"freeze_backbone": True}, {"freeze_backbone": True, "feature_cache_dir": "c"}]
)
def test_predicted_classes_are_those_of_predict(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tiny.trainer(tmp_path / "out", "convnext", **options, **tiny.BARE)
    run.head.modules[0].weight.data = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) * 9
    test = tiny.images((5, 6, 7, 3), seed=4)
    found = run.predicted_classes(test)
    assert found.tolist() == run.predict(test).predictions.argmax(-1).tolist() and len(set(found.tolist())) > 1

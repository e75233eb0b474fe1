"""Features on disk: found again, gone on with, never taken for those of another model, dataset or transform."""

import errno
import os

import pytest
import tiny
import torch
from passes import COLLATOR, DATA, PIXELS, look
from safetensors.torch import load_file

from selmix_hf import ImageCollator, find_head
from selmix_hf.data.collators import SelMixCollator
from selmix_hf.features.cache import FeatureCache, _create
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.features.stored import FeatureDataset
from selmix_hf.models.fingerprint import backbone_fingerprint


def test_cached_features_are_read_back(tmp_path, monkeypatch):
    at, collator = look(), SelMixCollator(COLLATOR)
    first = FeatureCache(tmp_path).features(at, DATA, collator)
    assert torch.equal(first, at.features(DATA, COLLATOR))
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    monkeypatch.setattr(DatasetPass, "features", None)  # computing would fail
    assert torch.equal(FeatureCache(tmp_path).features(at, DATA, collator), first)


class Interrupted(Exception):
    pass


def test_a_pass_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    """Chunks of 4 of 15 rows: the second pass computes what the first had not finished, with the same values."""
    monkeypatch.setattr("selmix_hf.features.cache._CHUNK", 4)
    at, collator, seen = look(batch_size=3), SelMixCollator(ImageCollator(transform=tiny.random_view)), []
    whole = FeatureCache(tmp_path / "whole").features(at, DATA, collator, seed=5)
    run = DatasetPass._run

    def count_and_stop(self, batch):
        if len(seen) == limit:
            raise Interrupted
        seen.append(len(batch["pixel_values"]))
        return run(self, batch)

    monkeypatch.setattr(DatasetPass, "_run", count_and_stop)
    cache, limit = FeatureCache(tmp_path / "cache"), 5
    with pytest.raises(Interrupted):
        cache.features(at, DATA, collator, seed=5)
    assert seen == [3, 1, 3, 1, 3]
    limit = 100
    assert torch.equal(cache.features(at, DATA, collator, seed=5), whole)
    assert seen[5:] == [3, 1, 3]  # rows 8 to 14
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_a_full_disk_is_met_before_the_pass(tmp_path, monkeypatch):
    def no_room(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    monkeypatch.setattr(DatasetPass, "feature_batches", None)  # computing would fail otherwise
    with pytest.raises(OSError, match="No space left"):
        FeatureCache(tmp_path).features(look(), DATA, SelMixCollator(COLLATOR))
    assert not list(tmp_path.iterdir())


def test_a_second_run_does_not_take_the_files_of_the_first(tmp_path):
    """It makes files while the first one writes: the first one's stay, with what is in them."""
    partial, done = tmp_path / "a.partial", tmp_path / "a.done"
    _create(partial, done, (5, 3), "float32", 2)
    done.write_bytes(bytes([1, 0]))
    nodes = [path.stat().st_ino for path in (partial, done)]
    _create(partial, done, (5, 3), "float32", 2)
    assert [path.stat().st_ino for path in (partial, done)] == nodes and done.read_bytes() == bytes([1, 0])
    assert len(list(tmp_path.iterdir())) == 2


def test_incomplete_features_are_never_called_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetPass, "feature_batches", lambda *args: iter(()))  # a process that did not do its part
    with pytest.raises(RuntimeError, match="is not complete"):
        FeatureCache(tmp_path).features(look(), DATA, SelMixCollator(COLLATOR))
    assert not list(tmp_path.glob("*.safetensors"))


def test_another_forward_pass_with_the_same_weights_is_computed_anew(tmp_path):
    cache, found = FeatureCache(tmp_path), []
    for act in ("relu", "gelu"):
        model = tiny.model("resnet", hidden_act=act)
        head = find_head(model, {"pixel_values": PIXELS[:2]})
        found.append(cache.features(DatasetPass(model, head, 4), DATA, SelMixCollator(COLLATOR)))
    assert not torch.allclose(*found)


@pytest.mark.parametrize("folder", [None, "cache"])
def test_features_beyond_half_precision_are_refused(folder, tmp_path):
    at = look()
    at.model.convnext.layernorm.weight.data.fill_(1e6)
    cache = FeatureCache(folder and tmp_path / folder, "float16")
    with pytest.raises(ValueError, match="beyond float16: set feature_dtype='float32'"):
        cache.features(at, DATA, SelMixCollator(COLLATOR))


def test_half_precision_takes_half_the_room(tmp_path):
    at, collator, files = look(), SelMixCollator(COLLATOR), []
    for dtype in ("float32", "float16"):
        features = FeatureCache(tmp_path / dtype, dtype).features(at, DATA, collator)
        assert features.dtype == getattr(torch, dtype) == FeatureCache(None, dtype).features(at, DATA, collator).dtype
        assert torch.allclose(features.float(), at.features(DATA, COLLATOR), atol=2e-3)
        files += list((tmp_path / dtype).iterdir())
        assert torch.equal(load_file(files[-1])["features"], features)
        assert FeatureDataset(features, [0] * 15).take([1, 2]).dtype == torch.float32
    assert files[0].stat().st_size - files[1].stat().st_size == 15 * at.head.num_features * 2


def test_other_data_weights_transforms_and_seeds_are_computed_anew(tmp_path):
    cache, at, collator = FeatureCache(tmp_path), look(), SelMixCollator(COLLATOR)
    cache.features(at, DATA, collator)
    cache.features(at, DATA.select(range(9)), collator)
    cache.features(at, DATA, SelMixCollator(ImageCollator(transform=tiny.random_view)))
    cache.features(at, DATA, SelMixCollator(ImageCollator(transform=tiny.random_view)), seed=1)
    FeatureCache(tmp_path, salt="bf16").features(at, DATA, collator)
    next(at.model.parameters()).data += 1
    cache.features(at, DATA, collator)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_run_from_the_cache_equals_the_first(tmp_path):
    runs = []
    for name in ("first", "second"):
        options = {"freeze_backbone": True, "feature_cache_dir": str(tmp_path / "cache"), "feature_views": 2}
        transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
        runs.append(tiny.trainer(tmp_path / name, "convnext", **transforms, **options))
        runs[-1].train()
    assert len(list((tmp_path / "cache").iterdir())) == 3  # two views of the training set, and the gain set
    assert tiny.losses(runs[0]) == tiny.losses(runs[1])
    assert tiny.largest_difference(tiny.weights(runs[0]), tiny.weights(runs[1])) == 0


def test_a_backbone_is_fingerprinted_once_a_set_and_run(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "selmix_hf.features.cache.backbone_fingerprint",
        lambda *args: calls.append(1) or backbone_fingerprint(*args),
    )
    options = {"freeze_backbone": True, "feature_cache_dir": str(tmp_path / "cache"), "max_steps": 16}
    run = tiny.trainer(tmp_path / "run", eval_dataset=tiny.images((5, 5, 5, 5), seed=3), **options)
    run.train()
    assert len([log for log in run.state.log_history if "eval_loss" in log]) == 5
    assert len(calls) == 3  # the gain set, the training set, the evaluation set

"""Features on disk: found again, gone on with, never taken for those of another model, dataset or transform."""

import errno
import os
from pathlib import Path

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
    with pytest.raises(OSError, match="has no room for the features: .* bytes are needed, and .* are free. Make room"):
        FeatureCache(tmp_path).features(look(), DATA, SelMixCollator(COLLATOR))
    assert not list(tmp_path.iterdir())


def test_a_second_run_does_not_take_the_files_of_the_first(tmp_path):
    """It makes files while the first one writes: the first one's stay, with what is in them."""
    partial, done = tmp_path / "a.partial", tmp_path / "a.done"
    _create(partial, done, (5, 3), "float32", 2)
    done.write_bytes(bytes([1] * 32 + [0] * 32))
    nodes = [path.stat().st_ino for path in (partial, done)]
    _create(partial, done, (5, 3), "float32", 2)
    assert [path.stat().st_ino for path in (partial, done)] == nodes and done.read_bytes() == bytes(
        [1] * 32 + [0] * 32
    )
    assert len(list(tmp_path.iterdir())) == 2


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def grow(path):
    path.write_bytes(path.read_bytes() + b"0")


def empty(path):
    path.write_bytes(b"")


def rename(path):
    """A bit of the header, which safetensors would read as another name."""
    path.write_bytes(path.read_bytes().replace(b"features", b"featurez", 1))


@pytest.mark.parametrize("damage", [flip, cut, grow, empty, rename, Path.unlink])
def test_damaged_features_are_computed_anew(damage, tmp_path, monkeypatch):
    monkeypatch.setattr("selmix_hf.features.cache._CHUNK", 4)
    warnings, at, collator = [], look(), SelMixCollator(COLLATOR)
    monkeypatch.setattr("selmix_hf.features.cache.logger.warning", warnings.append)
    first = FeatureCache(tmp_path).features(at, DATA, collator).clone()  # the file is damaged in place
    (path,) = tmp_path.iterdir()
    written = path.read_bytes()
    damage(path)
    assert torch.equal(FeatureCache(tmp_path).features(at, DATA, collator), first)
    assert path.read_bytes() == written
    said = [f"{path} is damaged, or of an older version: its features are computed anew."]
    assert warnings == (said if damage is not Path.unlink else [])


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_a_damaged_chunk_of_an_interrupted_pass_is_computed_anew(damage, tmp_path, monkeypatch):
    monkeypatch.setattr("selmix_hf.features.cache._CHUNK", 4)
    at, collator, batches = look(), SelMixCollator(COLLATOR), DatasetPass.feature_batches
    whole = FeatureCache(tmp_path / "whole").features(at, DATA, collator)

    def three(*args):
        for _, batch in zip(range(3), batches(*args), strict=False):
            yield batch
        raise Interrupted

    with monkeypatch.context() as broken:
        broken.setattr(DatasetPass, "feature_batches", three)
        with pytest.raises(Interrupted):
            FeatureCache(tmp_path / "cache").features(at, DATA, collator)
    (partial,) = (tmp_path / "cache").glob("*.partial")
    if damage == "missing":
        partial.unlink()
    else:
        data = bytearray(partial.read_bytes())
        data[-15 * at.head.num_features * 4] ^= 1  # of the first row
        partial.write_bytes(data)
    assert torch.equal(FeatureCache(tmp_path / "cache").features(at, DATA, collator), whole)


def test_a_link_in_the_folder_is_not_written_through(tmp_path):
    at, collator = look(), SelMixCollator(COLLATOR)
    FeatureCache(tmp_path / "cache").features(at, DATA, collator)
    (path,) = (tmp_path / "cache").iterdir()
    own = tmp_path / "own"
    own.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    path.with_suffix(".partial").symlink_to(own)
    FeatureCache(tmp_path / "cache").features(at, DATA, collator)
    assert not any(own.read_bytes()) and not path.is_symlink()


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

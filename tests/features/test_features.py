"""Stored features are those of the whole model, row by row, and take its place in front of the head."""

import errno
import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file

from selmix_hf import ImageCollator, find_head
from selmix_hf.data.collators import SelMixCollator
from selmix_hf.data.pairs import Pair
from selmix_hf.features.cache import FeatureCache, _create
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.features.frozen import features_as_inputs
from selmix_hf.features.stored import FEATURES, FeatureDataset, FeaturePairs
from selmix_hf.models.fingerprint import backbone_fingerprint

DATA = tiny.images((5, 4, 3, 3))
COLLATOR = ImageCollator(transform=tiny.to_tensor)
PIXELS = COLLATOR(list(DATA))["pixel_values"]


def look(kind="convnext", **options):
    model = tiny.model(kind)
    head = find_head(model, {"pixel_values": PIXELS[:2]})
    return DatasetPass(model, head, **{"batch_size": 4, **options})


def test_rows_views_and_labels():
    features = torch.arange(24.0).reshape(2, 4, 3)
    dataset = FeatureDataset(features, [0, 1, 1, 2])
    assert len(dataset) == 8 and len(dataset.views) == 2
    assert dataset.labels.tolist() == [0, 1, 1, 2] * 2
    assert torch.equal(dataset[5][FEATURES], features[1, 1]) and dataset[5]["labels"] == 1
    flat, single = features.reshape(8, 3), FeatureDataset(features[0], [0, 1, 1, 2])
    for rows in ([5, 0, 7], slice(1, 8, 3)):
        assert torch.equal(dataset.take(rows), flat[rows])
    for rows in ([3, 1], slice(0, 3)):
        assert torch.equal(single.take(rows), features[0][rows])
    batch = FeaturePairs(dataset).__getitems__([Pair(5, 0, 0.75, 1, 2), Pair(3, 2, 0.5, 3, 4)])
    assert torch.equal(batch[FEATURES], flat[[5, 3, 0, 2]])
    assert batch["labels"].tolist() == [1, 2] and batch["mixing_coefficient"].tolist() == [0.75, 0.5]
    with pytest.raises(ValueError, match=r"3 labels do not fit features of shape \[\(4, 3\), \(4, 3\)\]"):
        FeatureDataset(features, [0, 1, 2])


@pytest.mark.parametrize("kind", ["convnext", "resnet", "vit", "deit-distilled"])
def test_the_head_makes_the_models_logits_of_stored_features(kind):
    at = look(kind)
    features = at.features(DATA, COLLATOR)
    assert features.shape == (15, at.head.num_features) and features.dtype == torch.float32
    with torch.no_grad():
        expected = at.model(pixel_values=PIXELS).logits
        assert torch.allclose(at.head.logits(features), expected, atol=1e-5)


def test_a_bar_shows_how_far_the_features_are(capsys):
    look().features(DATA, COLLATOR)
    assert capsys.readouterr().err == ""
    look(show_progress=True).features(DATA, COLLATOR)
    assert "pooled features: 100%" in (shown := capsys.readouterr().err) and "15/15" in shown
    look(show_progress=True, world_size=2, rank=0).features(DATA, COLLATOR)
    assert "8/8" in capsys.readouterr().err


def test_batches_without_labels_are_refused():
    with pytest.raises(ValueError, match="a batch must have the classes as 'labels', found pixel_values: the dataset"):
        look().statistics(DATA.rename_column("label", "target"), COLLATOR)


def test_statistics_by_hand():
    at = look()
    features, labels = at.features(DATA, COLLATOR), torch.tensor(DATA["label"][:])
    with torch.no_grad():
        logits = at.model(pixel_values=PIXELS).logits
    found = at.statistics(DATA, COLLATOR)
    counts = torch.zeros(4, 4, dtype=torch.long)
    for label, prediction in zip(labels, logits.argmax(1), strict=True):
        counts[label, prediction] += 1
    assert torch.equal(found.counts, counts)
    centroids = torch.stack([features[labels == k].double().mean(0) for k in range(4)])
    assert torch.allclose(found.centroids, centroids, atol=1e-6)
    assert found.mean_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-6)
    stored = at.statistics(FeatureDataset(features, labels), COLLATOR)
    assert torch.equal(stored.counts, counts) and torch.allclose(stored.centroids, centroids, atol=1e-6)


def test_parts_of_a_set_add_up():
    """Two processes see every row once, of an odd number of rows."""
    whole = look().statistics(DATA, COLLATOR)
    parts = [look(rank=rank, world_size=2).statistics(DATA, COLLATOR) for rank in (0, 1)]
    assert [part.num_samples for part in parts] == [8, 7]
    assert torch.equal(sum(part.counts for part in parts), whole.counts)
    assert torch.allclose(sum(part.feature_sums for part in parts), whole.feature_sums, atol=1e-5)
    assert float(sum(part.loss_sum for part in parts)) == pytest.approx(float(whole.loss_sum))


def test_a_pass_is_in_eval_mode():
    at = look("resnet")
    at.model.train()
    before = tiny.weights(at.model)
    first = at.features(DATA, COLLATOR)
    assert tiny.largest_difference(before, tiny.weights(at.model)) == 0
    at.model.eval()
    assert torch.equal(first, at.features(DATA, COLLATOR))


def test_features_as_inputs():
    at = look()
    features, own_forward = at.features(DATA, COLLATOR), at.model.forward
    with torch.no_grad():
        expected = at.model(pixel_values=PIXELS).logits
        with features_as_inputs(at.model, at.head):
            assert torch.allclose(at.model(**{FEATURES: features})["logits"], expected, atol=1e-5)
            assert torch.equal(at.model(pixel_values=PIXELS).logits, expected)
            with at.head.mix(torch.full((7,), 0.75)):
                mixed = at.model(**{FEATURES: features[:14]})["logits"]
            blend = 0.75 * features[:7] + 0.25 * features[7:14]
            assert torch.allclose(mixed, at.head.logits(blend), atol=1e-6)
    assert "forward" not in vars(at.model) and at.model.forward == own_forward
    with pytest.raises(RuntimeError), features_as_inputs(at.model, at.head):
        raise RuntimeError
    assert "forward" not in vars(at.model)


def test_dropout_in_front_of_the_head_acts_in_train_mode_only():
    model = tiny.model("test_convnext", drop_rate=0.5)
    head = find_head(model, {"pixel_values": torch.zeros(2, 3, 32, 32)})
    assert head.input_dropout == 0.5
    features = torch.ones(64, head.num_features)
    with features_as_inputs(model, head), torch.no_grad():
        logits = {mode: model.train(mode)(**{FEATURES: features})["logits"] for mode in (False, True)}
    assert torch.allclose(logits[False], head.logits(features), atol=1e-6)
    assert float(logits[False].std(0).max()) < 1e-6 < float(logits[True].std(0).min())


# --- the cache on disk -------------------------------------------------------------------------------------------


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


def test_stored_features_are_mapped_and_not_read_into_memory(tmp_path):
    """In a process of its own: 512 MB of features, of which a few rows are looked at."""
    path = tmp_path / "big.partial"
    _create(path, tmp_path / "big.done", (131072, 1024), "float32", 128)
    code = f"""
import resource, torch
from safetensors import safe_open
from selmix_hf.features.stored import FeatureDataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with safe_open({str(path)!r}, "pt") as opened:
    dataset = FeatureDataset(opened.get_tensor("features"), torch.zeros(131072, dtype=torch.long))
assert dataset.take(list(range(0, 131072, 4096))).shape == (32, 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 65536  # kB


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


def test_the_head_is_no_part_of_the_key():
    at = look()
    before = backbone_fingerprint(at.model, at.head.parameters())
    next(at.head.parameters()).data += 1
    assert backbone_fingerprint(at.model, at.head.parameters()) == before
    at.model.convnext.embeddings.patch_embeddings.weight.data += 1
    assert backbone_fingerprint(at.model, at.head.parameters()) != before


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


def test_a_bfloat16_model_trains_its_head_on_stored_features(tmp_path):
    model = tiny.model("vit").to(torch.bfloat16)
    before = tiny.weights(model)
    run = tiny.trainer(tmp_path, model, freeze_backbone=True, **tiny.BARE)
    run.train()
    assert 0 < run.evaluate(tiny.images((5, 5, 5, 5), seed=2))["eval_loss"] < 10
    assert {value.dtype for value in tiny.weights(model).values()} == {torch.bfloat16}
    assert not torch.equal(before["classifier.weight"], tiny.weights(model)["classifier.weight"])
    assert all(0 < loss < 10 for loss in tiny.losses(run))


def test_stored_features_enter_a_bfloat16_head_in_its_dtype():
    at = look("vit")
    at.model.to(torch.bfloat16)
    features = torch.randn(3, at.head.num_features)
    with features_as_inputs(at.model, at.head), torch.no_grad():
        logits = at.model(**{FEATURES: features})["logits"]
    assert logits.dtype == torch.bfloat16
    assert torch.allclose(logits.float(), (features @ at.head.weight.float().T + at.head.bias.float()), atol=0.05)


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

"""Stored features: rows, views and labels; mapped where they lie in a file."""

import subprocess
import sys

import pytest
import torch

from selmix_hf.data.pairs import Pair
from selmix_hf.features.cache import _create
from selmix_hf.features.stored import FEATURES, FeatureDataset, FeaturePairs, JoinedFeatures


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


def test_rows_of_two_sets_one_behind_the_other():
    first = FeatureDataset(torch.arange(6.0).view(3, 2), [0, 1, 1])
    second = FeatureDataset(10 + torch.arange(4.0).view(2, 2), [1, 0])
    joined = JoinedFeatures(first, second)
    assert joined.take([3, 0, 4, 2]).tolist() == [[10, 11], [0, 1], [12, 13], [4, 5]]
    batch = FeaturePairs(first, joined).__getitems__([Pair(1, 4, 0.5, 1, 2), Pair(2, 0, 0.5, 3, 4)])
    assert batch[FEATURES].tolist() == [[2, 3], [4, 5], [12, 13], [0, 1]]


def test_sums_of_the_classes_by_hand(monkeypatch):
    """Also two rows at a time; of two processes each has its own rows."""
    features, labels = torch.arange(10.0).view(5, 2), [0, 2, 0, 0, 2]
    monkeypatch.setattr("selmix_hf.features.stored._FEATURES_AT_ONCE", 2)
    whole = FeatureDataset(features, labels).class_sums(3)
    assert whole.dtype == torch.float64 and whole.tolist() == [[0 + 4 + 6, 1 + 5 + 7], [0, 0], [2 + 8, 3 + 9]]
    parts = [FeatureDataset(features, labels).class_sums(3, rank, 2) for rank in (0, 1)]
    assert parts[1].tolist() == [[6, 7], [0, 0], [2, 3]] and torch.equal(parts[0] + parts[1], whole)


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

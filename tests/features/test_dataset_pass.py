"""Passes over a dataset: features and statistics are those of the whole model, row by row."""

import pytest
import tiny
import torch
from passes import COLLATOR, DATA, PIXELS, look

from selmix_hf.features.stored import FeatureDataset


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

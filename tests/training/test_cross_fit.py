"""Two heads, each steered by what the other was trained on, and their mean."""

import copy

import numpy as np
import pytest
import tiny
import torch

from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.training.cross_fit import cross_fit, halves_of


def test_halves_have_half_of_each_class():
    labels = np.array([2, 0, 0, 2, 1, 1, 0, 2, 2])
    first, second = halves_of(labels)
    assert sorted([*first, *second]) == list(range(9))
    for rows, sizes in ((first, [2, 1, 2]), (second, [1, 1, 2])):
        assert np.bincount(labels[rows]).tolist() == sizes
    with pytest.raises(ValueError, match="two halves of each class need two gain images a class; class 1 has one"):
        halves_of(np.array([0, 0, 1]))


def test_cross_fitted_heads_steer_by_what_they_were_not_trained_on(tmp_path):
    start, seen = tiny.model("resnet"), []

    def make(train, gain, half):
        options = {"train_dataset": train, "gain_dataset": gain, "freeze_backbone": True, **tiny.BARE}
        seen.append((tiny.trainer(tmp_path / str(half), copy.deepcopy(start), **options), train, gain))
        return seen[-1][0]

    train, gain = tiny.images(), tiny.images((4, 6, 8, 4), seed=1)
    keyed = gain.add_column("row", range(len(gain)))
    result = cross_fit(make, train.add_column("row", [-1] * len(train)), keyed)
    (first, *sets), (second, *others) = seen
    assert result is first
    trained, steering = ({row for row in part["row"] if row >= 0} for part in sets)
    assert not trained & steering and len(trained) == len(steering) == 11
    assert [{row for row in part["row"] if row >= 0} for part in others] == [steering, trained]
    apart = tiny.trainer(tmp_path / "a", copy.deepcopy(start), train_dataset=sets[0], gain_dataset=sets[1],
                         freeze_backbone=True, **tiny.BARE)  # fmt: skip
    apart.train()
    torch.testing.assert_close(first.head.weight, (apart.head.weight + second.head.weight) / 2)
    torch.testing.assert_close(first.head.bias, (apart.head.bias + second.head.bias) / 2)


def test_a_class_bias_follows_from_scores_of_the_head_that_a_half_steered(tmp_path):
    start, seen = tiny.model("resnet"), []

    def make(train, gain, half):
        options = {"train_dataset": train, "gain_dataset": gain, "freeze_backbone": True, "gain_set_use": "refit"}
        folder = tmp_path / f"{half}-{len(seen)}"
        seen.append(tiny.trainer(folder, copy.deepcopy(start), **options, **tiny.BARE))
        return seen[-1]

    train, gain = tiny.images(), tiny.images((4, 6, 8, 4), seed=1)
    plain = cross_fit(make, train, gain)
    biased = cross_fit(make, train, gain, bias_share=0.5)
    alone = [make(trainer.train_dataset, trainer.gain_dataset, i) for i, trainer in enumerate(seen[:2])]
    scores = []
    for trainer in alone:
        trainer.train()
        scores.append(trainer.passes.features_of(trainer.gain_dataset) @ trainer.head.weight.T + trainer.head.bias)
    labels = torch.as_tensor(np.concatenate([trainer.sets.gain_labels for trainer in alone]))
    bias = tune_class_bias(torch.cat(scores), labels, plain.objective)
    assert bias.abs().max() > 0.01
    torch.testing.assert_close(biased.head.weight, plain.head.weight)
    torch.testing.assert_close(biased.head.bias, plain.head.bias + bias / 2, atol=1e-5, rtol=1e-4)


def test_cross_fitting_needs_a_model_for_each_run(tmp_path):
    model = tiny.model("resnet")
    with pytest.raises(ValueError, match="both runs got one model"):
        cross_fit(lambda train, gain, half: tiny.trainer(tmp_path / str(half), model, train_dataset=train,
                                                         gain_dataset=gain, freeze_backbone=True, **tiny.BARE),
                  tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1))  # fmt: skip


def test_cross_fitting_is_for_heads(tmp_path):
    with pytest.raises(ValueError, match="set freeze_backbone=True"):
        cross_fit(lambda train, gain, half: tiny.trainer(tmp_path, train_dataset=train, gain_dataset=gain),
                  tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1))  # fmt: skip

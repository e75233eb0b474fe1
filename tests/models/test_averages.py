"""A running mean of weights, by hand."""

import pytest
import torch
from torch import nn

from selmix_hf.models.averages import WeightAverage


def test_weight_average_by_hand():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    average = WeightAverage(layer.state_dict)
    for value in (2.0, 3.0):
        layer.weight.data.fill_(value)
        average.update(0.9)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3
    with average.in_place():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 3
    again = WeightAverage(layer.state_dict)
    again.load(average.tensors)
    assert torch.equal(again.tensors["weight"], average.tensors["weight"])


def test_the_average_of_small_steps_in_bfloat16():
    layer = torch.nn.Linear(1, 1, bias=False).bfloat16()
    layer.weight.data.fill_(1.0)
    average = WeightAverage(layer.state_dict)
    layer.weight.data.fill_(2.0)
    for _ in range(3000):
        average.update(0.999)
    assert average.tensors["weight"].item() == pytest.approx(2 - 0.999**3000, abs=1e-3)

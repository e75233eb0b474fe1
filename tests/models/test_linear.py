"""Which layers can be a linear head, and their weights as a matrix."""

import pytest
import torch
from torch import nn

from selmix_hf.models.linear import as_weight, bias_of, matrix_of, weight_of


class Passing(nn.Module):
    """A wrapper that shows the weight of the layer inside."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(5, 3)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inside, name)


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 3), lambda: nn.Linear(5, 3, bias=False)])
def test_a_linear_layer_has_its_weight(make):
    layer = make()
    assert matrix_of(layer) is layer.weight is weight_of(layer)
    assert bias_of(layer) is layer.bias


def test_a_convolution_of_one_pixel_has_its_weight_without_the_pixels():
    layer = nn.Conv2d(5, 3, 1)
    assert torch.equal(matrix_of(layer), layer.weight[:, :, 0, 0])
    assert matrix_of(layer).data_ptr() == layer.weight.data_ptr()  # no copy: what is written there is the layer's


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(5, 3, 3),
        lambda: nn.Conv2d(6, 3, 1, groups=3),
        lambda: nn.Conv1d(5, 3, 1),
        lambda: nn.Embedding(5, 3),
        lambda: nn.BatchNorm1d(5),
        nn.ReLU,
        Passing,
    ],
    ids=["3 x 3", "groups", "one dimension", "embedding", "norm", "no weight", "wrapper"],
)
def test_other_layers_are_no_head(make):
    assert matrix_of(make()) is None


def test_a_weight_that_a_wrapper_shows_is_that_of_the_layer_inside():
    wrapper = Passing()
    assert wrapper.weight is wrapper.inside.weight
    assert matrix_of(wrapper.inside) is wrapper.inside.weight


def test_a_parametrised_weight_is_the_layers_own():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))
    assert torch.equal(matrix_of(layer), layer.weight)


def test_features_take_the_dtype_of_floating_weights():
    features = torch.randn(2, 5)
    assert as_weight(features, nn.Linear(5, 3).double()).dtype == torch.float64
    assert as_weight(features, nn.Linear(5, 3).bfloat16()).dtype == torch.bfloat16
    whole = nn.Module()
    whole.register_buffer("weight", torch.ones(3, 5, dtype=torch.int8))  # as of a quantised layer
    assert as_weight(features, whole) is features

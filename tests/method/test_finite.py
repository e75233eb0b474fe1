"""Where a tensor is not finite."""

import pytest
import torch

from selmix_hf.method.finite import all_finite, first_not_finite


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_the_first_row_that_is_not_finite(shape, wrong):
    tensor = torch.zeros(shape)
    assert all_finite(tensor)
    tensor[2:] = wrong
    assert not all_finite(tensor) and first_not_finite(tensor) == 2


def test_a_sum_that_overflows_is_no_proof():
    assert all_finite(torch.full((2, 2), 3e38))

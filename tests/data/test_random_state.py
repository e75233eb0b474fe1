"""Randomness inside, from a seed alone; outside, nothing."""

import random

import numpy as np
import pytest
import torch

from selmix_hf.data.random_state import isolated_random_state


def states():
    _name, keys, *rest = np.random.get_state()
    return random.getstate(), keys.tolist(), rest, torch.get_rng_state().tolist()


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def from_seed(seed):
    """The first number of each generator, from generators of one's own."""
    return (
        random.Random(seed).random(),
        np.random.RandomState(seed).rand(),
        torch.rand((), generator=torch.Generator().manual_seed(seed)).item(),
    )


def test_inside_all_three_start_from_the_seed_and_afterwards_go_on_as_before():
    for seed in (5, 5, 6):
        before = states()
        with isolated_random_state(seed):
            assert draw() == from_seed(seed)
        assert states() == before
        draw()


def test_one_inside_another_leaves_it_alone():
    with isolated_random_state(1):
        with isolated_random_state(2):
            draw()
        assert draw() == from_seed(1)


def test_an_error_inside_changes_nothing():
    before = states()
    with pytest.raises(KeyError), isolated_random_state(3):
        draw()
        raise KeyError
    assert states() == before

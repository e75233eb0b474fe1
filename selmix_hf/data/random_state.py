"""Randomness that leaves the global state alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import TrainingArguments


def seed_of_draws(args: TrainingArguments) -> int:
    """Of all that a run draws: its `data_seed`, or else its `seed`."""
    return args.seed if args.data_seed is None else args.data_seed


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Inside, `random`, `numpy.random` and torch's CPU generator start from the seed; after it they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

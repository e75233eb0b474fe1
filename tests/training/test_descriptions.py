"""Objects in plain values: the same for the same, others for others."""

import json
import logging
import random
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from transformers.training_args import OptimizerNames

from selmix_hf.options import WorkedOut
from selmix_hf.training.descriptions import described


class Other:
    pass


class View:
    def __init__(self, size, folder="/a/masks"):
        self.size, self.folder, self._seen = size, Path(folder), random.random()
        self.around = self

    def resized(self, image):
        return image.resize(self.size)


def resized(size):
    def view(image, fill=0):
        return image.resize(size)

    return view


SAME = [
    lambda: None,
    lambda: float("nan"),
    lambda: tiny.torchvision_view(),
    lambda: tiny.timm_view(),
    lambda: tiny.processor(),
    lambda: tiny.random_view,
    lambda: View((16, 16)).resized,
    lambda: partial(tiny.images, seed=3),
    lambda: resized(16),
    lambda: {"b", "a"},
    lambda: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)),
    lambda: np.random.default_rng(),
    lambda: torch.optim.SGD([torch.ones(2)], lr=0.1),
    lambda: {"tables": {tiny.images, tiny.random_view}, tiny.images: 1},
    lambda: [np.array(["a", Other()], dtype=object), [2**70] * 200],  # not their addresses
    lambda: [torch.eye(2).to_sparse(), torch.ones(1, device="meta"), torch.ones(2, dtype=torch.bfloat16)],
]
OTHERS = [
    (None, 0),
    (View(16), View(32)),
    (resized(16), resized(32)),
    (lambda image: tiny.to_tensor(image), lambda image: tiny.random_view(image)),
    (partial(tiny.images, seed=3), partial(tiny.images, seed=4)),
    (nn.Sequential(nn.Dropout(0.5)), nn.Sequential(nn.Dropout(0.4))),
    (list(range(200)), list(range(1, 201))),
    ([1.0, 2.0], [1.0]),
    (torch.zeros(3), torch.ones(3)),
    (np.zeros(3), np.zeros(4)),
    ({"gamma": 1}, {}),
    (torch.optim.SGD([torch.ones(2)], lr=0.1), torch.optim.SGD([torch.ones(2)], lr=0.2)),
    (torch.optim.SGD([torch.ones(2)]), torch.optim.Adam([torch.ones(2)])),
]


@pytest.mark.parametrize("make", SAME)
def test_the_same_is_described_alike(make):
    found = described(make(), "it")
    assert found == described(make(), "it")
    assert all(name.startswith("it") for name in found)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("first", "second"), OTHERS)
def test_others_are_not(first, second):
    assert described(first, "it") != described(second, "it")


def test_what_is_known_of_an_object():
    found = described(View((16, 8)), "view")
    assert {"view": "View", "view.size": "2 values", "view.size.0": 16, "view.size.1": 8}.items() <= found.items()
    assert found["view.folder"] == "masks" and "view._seen" not in found  # folders move
    assert described(WorkedOut(3.0), "rate") == {"rate": None}
    assert described(OptimizerNames.SGD, "optim") == {"optim": "sgd"}
    assert described(np.float32(0.5), "x") == {"x": 0.5}
    assert described(["a"] * 101, "names") == {"names": "101 values"}
    module = nn.Dropout(0.5)
    assert described(module, "x") == described(module.eval(), "x")


def test_no_description_is_long():
    found = described([logging.getLogger("mine"), random.Random(), threading.Lock()], "it")
    assert found == {"it": "3 values", "it.0": "Logger", "it.1": "Random", "it.2": "lock"}
    deep = [[[list(range(50))] * 50] * 50] * 50
    assert len(described(deep, "it")) == 1000


def test_an_optimizer_is_known_by_the_rate_that_its_schedule_begins_with():
    optimizer = torch.optim.SGD([torch.ones(2)], lr=0.1)
    before = described(optimizer, "x")
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.05 and described(optimizer, "x") == before

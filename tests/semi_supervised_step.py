"""The first step of semi-supervised runs, and logits for their losses."""

import pytest
import torch
from semi_supervised_run import METHODS

LOG_PRIOR = torch.tensor([5, 3, 3, 1]).div(12).log()
every_method = pytest.mark.parametrize("method", METHODS)


def logits(*rows):
    return torch.tensor(rows).log().requires_grad_()


def step_of(trainer):
    """The first batch of a run that begins: labelled images, labels, both views."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.average.on_train_begin(None, trainer.state, None, trainer.model)
    pixels, mu = batch["pixel_values"], trainer.mu
    assert pixels.shape == (8, 1 + 2 * mu, 3, 16, 16)
    first, second = (pixels[:, 1 + mu * v : 1 + mu * (v + 1)].flatten(0, 1) for v in (0, 1))
    assert not torch.equal(first, second) and len(first) == 8 * mu
    return pixels[:, 0], batch["labels"], first, second

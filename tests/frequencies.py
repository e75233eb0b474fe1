"""Seven samples of three classes, a P over their pairs, and whether frequencies are those that are wanted."""

import numpy as np
import torch

LABELS = [0, 1, 0, 2, 1, 0, 0]  # class 2 has one sample
P = torch.tensor([[0.0, 0.3, 0.1], [0.2, 0.0, 0.05], [0.25, 0.1, 0.0]])


def chi_square(counts, expected):
    """Statistic and what it may reach: five standard deviations above its mean."""
    drawn = expected > 0
    assert not counts[~drawn].any()
    freedom = drawn.sum() - 1
    return ((counts - expected)[drawn] ** 2 / expected[drawn]).sum(), freedom + 5 * np.sqrt(2 * freedom)


def count_cells(pairs, num_classes):
    return np.bincount(pairs[:, 0] * num_classes + pairs[:, 1], minlength=num_classes**2)

"""Counts of four classes of ten samples that rank in a known order, and an objective that is nan for some."""

import torch

# four classes of ten: hits of each, all misses in the next class
START, FEWER_AT_ZERO, BETTER_REST, BETTER_MEAN = (0, 0, 5, 6), (0, 2, 2, 2), (0, 2, 3, 2), (0, 0, 10, 10)


def counts_of(hits):
    counts = torch.diag(torch.tensor(hits))
    for k, hit in enumerate(hits):
        counts[k, (k + 1) % len(hits)] += 10 - hit
    return counts


def macro_precision(confusion):
    return (confusion.diagonal() / confusion.sum(0)).mean()

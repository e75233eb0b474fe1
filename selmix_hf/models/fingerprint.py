"""Are these the same backbone weights?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


def backbone_fingerprint(model: nn.Module, head_parameters: Iterable[nn.Parameter]) -> str:
    """sha256 of the names, shapes, dtypes and bytes of all weights and buffers but the head's."""
    of_head = {id(parameter) for parameter in head_parameters}
    digest = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in of_head:
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""Layers that can be a linear head: `nn.Linear` and its like, and 1 x 1 convolutions."""

from __future__ import annotations

from torch import Tensor, nn


def matrix_of(module: nn.Module) -> Tensor | None:
    """[K, D] for a module that can be a linear head, None for others."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, nn.Embedding) or not _owns_weight(module):
        return None
    if isinstance(module, nn.Conv2d):
        return weight.flatten(1) if module.kernel_size == (1, 1) and module.groups == 1 else None
    return weight if weight.ndim == 2 else None


def _owns_weight(module: nn.Module) -> bool:
    """False for a wrapper that only passes on the weight of the layer inside: that layer is the head, not the wrapper,
    whose parameters may be those of several layers."""
    own = (module._parameters, module._buffers, vars(module))
    return hasattr(type(module), "weight") or any("weight" in place for place in own)


def weight_of(module: nn.Module) -> Tensor:
    weight = matrix_of(module)
    assert weight is not None
    return weight


def as_weight(features: Tensor, module: nn.Module) -> Tensor:
    dtype = weight_of(module).dtype
    return features.to(dtype) if dtype.is_floating_point else features


def bias_of(module: nn.Module) -> Tensor | None:
    return getattr(module, "bias", None)

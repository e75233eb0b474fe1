"""Any object in plain values, by which two runs tell whether they were given the same: a transform, a collator, a
loss, an optimizer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selmix_hf.options import WorkedOut

_DEEPEST, _MANY = 8, 100
_SCALARS = (bool, int, float)
_EMPTY = CellType()


def described(value: Any, name: str, depth: int = 0) -> dict[str, Any]:
    """Plain values by dotted names, the same in every process of every version of Python.

    A function is known by its name, the names that its code uses and the plain values that it is bound to; an object
    by its class and its public attributes; a path by its last part, as folders move; many numbers by their checksum.

    Args:
        name: of the value.
        depth: in which it lies.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, WorkedOut):
        return {name: None}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, _SCALARS):
        return {name: value if value == value else "nan"}
    if isinstance(value, str | os.PathLike):
        return {name: os.path.basename(os.fspath(value))}
    if isinstance(value, Tensor | np.ndarray):
        return {name: _checksum(np.asarray(value.detach().cpu().float() if isinstance(value, Tensor) else value))}
    if isinstance(value, Set):
        value = sorted(map(str, value))
    if isinstance(value, Sequence) and len(value) > _MANY:
        numbers = all(isinstance(one, _SCALARS) for one in value)
        return {name: _checksum(np.asarray(value)) if numbers else f"{len(value)} values"}
    title, parts = _parts(value)
    found: dict[str, Any] = {name: title}
    if depth < _DEEPEST:
        for key, part in parts.items():
            found |= described(part, f"{name}.{key}", depth + 1)
    return found


def _parts(value: Any) -> tuple[str, Mapping[Any, Any]]:
    """What kind of object it is, and what it is made of."""
    if isinstance(value, Mapping):
        return f"{len(value)} entries", dict(list(value.items())[:_MANY])
    if isinstance(value, Sequence):
        return f"{len(value)} values", dict(enumerate(value))
    if isinstance(value, FunctionType):
        return " ".join([value.__qualname__, *value.__code__.co_names]), _bound(value)
    if isinstance(value, type | BuiltinFunctionType):
        return value.__qualname__, {}
    if isinstance(value, MethodType):
        return value.__func__.__qualname__, {"self": value.__self__}
    title = type(value).__qualname__
    if isinstance(value, partial):
        return title, {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, torch.optim.Optimizer):
        return title, {"groups": [_options(group) for group in value.param_groups]}
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return title, {}
    own = {key: part for key, part in getattr(value, "__dict__", {}).items() if not str(key).startswith("_")}
    if isinstance(value, nn.Module):
        own.pop("training", None)
        own |= dict(value.named_buffers(recurse=False)) | dict(value.named_children())
    return title, own


def _bound(function: FunctionType) -> dict[Any, Any]:
    """The plain values of a function's defaults and of the variables around it."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values: dict[Any, Any] = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    values |= {name: cell.cell_contents for name, cell in cells if cell != _EMPTY}
    return {name: value for name, value in values.items() if value is None or isinstance(value, (*_SCALARS, str))}


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Of an optimizer's group, with the rate that a schedule begins with."""
    own = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
    return own | {"lr": group.get("initial_lr", group["lr"])}


def _checksum(values: np.ndarray[Any, Any]) -> str:
    return f"{values.shape} {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]}"

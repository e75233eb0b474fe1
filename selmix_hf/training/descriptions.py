"""Any object in plain values, by which two runs tell whether they were given the same: a transform, a collator, a
loss, an optimizer."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selmix_hf.options import WorkedOut

_DEEPEST, _MANY, _MOST = 8, 100, 1000
_SCALARS = (bool, int, float)
_EMPTY = CellType()


def described(value: Any, name: str) -> dict[str, Any]:
    """Plain values by dotted names, the same in every process.

    A function is known by its name, the names that its code uses and the plain values that it is bound to; an object
    by its class and its public attributes, one of the standard library by its class; a path by its last part, as
    folders move; many numbers by their checksum. What lies deepest is left out of more than a thousand values.

    Args:
        name: of the value.
    """
    found: dict[str, Any] = {}
    left = deque([(name, value, 0)])
    while left and len(found) < _MOST:
        name, value, depth = left.popleft()
        found[name], parts = _plain(value)
        if depth < _DEEPEST:
            left.extend((f"{name}.{_key(key)}", part, depth + 1) for key, part in parts.items())
    return found


def _plain(value: Any) -> tuple[Any, Mapping[Any, Any]]:
    """What it is in a plain value, and what it is made of."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, WorkedOut):
        return None, {}
    if isinstance(value, _SCALARS):
        return value if value == value else "nan", {}
    if isinstance(value, str | os.PathLike):
        return os.path.basename(os.fspath(value).rstrip(os.sep)), {}
    if isinstance(value, Tensor | np.ndarray):
        return _checksum(value), {}
    if isinstance(value, Set):
        value = sorted(str(_plain(one)[0]) for one in value)
    if isinstance(value, Sequence) and len(value) > _MANY:
        numbers = all(isinstance(one, _SCALARS) for one in value)
        return _checksum(np.asarray(value)) if numbers else f"{len(value)} values", {}
    return _parts(value)


def _key(key: Any) -> Any:
    return key if key is None or isinstance(key, (*_SCALARS, str)) else _plain(key)[0]


def _parts(value: Any) -> tuple[str, Mapping[Any, Any]]:
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
    if type(value).__module__.partition(".")[0] in sys.stdlib_module_names:  # loggers, locks, generators, ...
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
    """Of an optimizer's group, as before its schedule changed it."""
    cycled = ("betas", "momentum") if "base_momentum" in group else ()
    own = {key: value for key, value in group.items() if key not in ("params", "initial_lr", *cycled)}
    return own | {"lr": group.get("initial_lr", group["lr"])}


def _checksum(values: Tensor | np.ndarray[Any, Any]) -> str:
    title = f"{tuple(values.shape)} {values.dtype}"
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_meta or values.is_quantized:
            return title
        values = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if values.dtype.hasobject:  # addresses
        return title
    return f"{title} {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]}"

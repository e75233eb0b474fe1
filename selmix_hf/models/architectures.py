"""The timm architectures that this package adds, registered where a checkpoint names one."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = dict.fromkeys(("wrn_28_2", "wrn_28_8", "wrn_37_2"), "selmix_hf.wide_resnet")


def home_of_architecture(config: Any) -> str | None:
    """The module that must be imported before a model of this config can be built; None for no such need."""
    return _HOME.get(str(getattr(config, "architecture", None)))


def register_architecture(config: Any) -> None:
    """Import the module that registers the architecture of a model's config with timm, if it is of this package."""
    home = home_of_architecture(config)
    if home is not None:
        importlib.import_module(home)

"""The command that numbers come from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


def own_command(argv: Sequence[str]) -> str | None:
    """The script and its options, fit to be published: without the values of token options; None in a notebook."""
    if not argv[0].endswith(".py"):
        return None
    words = [Path(argv[0]).name]
    for before, word in pairwise(argv):
        name, equals, _ = word.partition("=")
        if "token" in name and equals:
            word = f"{name}=..."
        elif before.startswith("--") and "token" in before and "=" not in before:
            word = "..."
        words.append(word)
    return shlex.join(words)

"""What ends a recipe with a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selmix_hf.studies.data import BenchmarkData


@contextmanager
def leaving_with_a_sentence(script: str) -> Iterator[None]:
    """Inside, what an option or the data have wrong ends the process with a sentence."""
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"{script}: {error}") from error


@contextmanager
def naming_a_broken_image(script: str, data: BenchmarkData) -> Iterator[None]:
    """Inside, an image that cannot be decoded ends the process with a sentence that names it."""
    try:
        yield
    except (OSError, SyntaxError) as error:  # what PIL raises, without a name
        if getattr(error, "errno", None) is not None:  # a full disk, a lost connection
            raise
        broken = data.broken_image()
        if broken is None:
            raise
        raise SystemExit(f"{script}: {broken}") from error

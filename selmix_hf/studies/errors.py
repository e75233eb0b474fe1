"""What ends a recipe with a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selmix_hf.data.bad_images import BadImageError, naming_sets
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
        with naming_sets({f"the split {part}": dataset for part, dataset in data.splits.items()}):
            yield
    except BadImageError as error:
        raise SystemExit(f"{script}: {error}") from error

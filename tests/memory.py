"""How much memory Python objects and arrays take at most."""

import tracemalloc
from contextlib import contextmanager


@contextmanager
def peak_below(num_bytes):
    """What is allocated inside stays below."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()

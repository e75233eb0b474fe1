"""Where a run's time went, and how much memory it took at most."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch


class Timer:
    """Seconds by name. A part inside another counts for itself alone, so that the parts add up to the whole.

    Attributes:
        seconds: of each part, in the order of their first beginning.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = self._began = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the timer was made."""
        return time.perf_counter() - self._began

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._settle()
        self._open.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what a GPU still has to do belongs to the part that asked for it
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def report(self) -> dict[str, Any]:
        """seconds (by part), total, peak_memory_gb of this process, and peak_gpu_memory_gb where a GPU was used."""
        report: dict[str, Any] = {"seconds": dict(self.seconds), "total": self.total}
        report["peak_memory_gb"] = peak_memory_gb()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            report["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        return report


def peak_memory_gb() -> float | None:
    """Most memory that this process has held so far, in GiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class PeakMemory:
    """A context: `gb` is by how much the memory of this process grew at most inside, in GiB, by kind: "process" where
    the system tells (Linux), "gpu" where one is used. What `peak_memory_gb` says afterwards counts from here."""

    gb: dict[str, float]

    def __enter__(self) -> PeakMemory:
        self._gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten: proc(5)
        self._held = _process_gb("VmRSS")
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
            self._held_gpu = torch.cuda.memory_allocated() / 2**30
        return self

    def __exit__(self, *error: object) -> None:
        self.gb = {}
        peak = _process_gb("VmHWM")
        if peak is not None and self._held is not None:
            self.gb["process"] = max(0.0, peak - self._held)
        if self._gpu:
            self.gb["gpu"] = torch.cuda.max_memory_allocated() / 2**30 - self._held_gpu


def _process_gb(name: str) -> float | None:
    """A line of /proc/self/status, in GiB; None where there is none."""
    try:
        return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 2**20
    except (OSError, IndexError):
        return None


def timing_line(report: dict[str, Any]) -> str:
    """One sentence for a person."""
    total = report["total"]
    parts = [f"{name} {seconds:.1f} s ({seconds / total:.1%})" for name, seconds in report["seconds"].items()]
    memory = [
        f"{words} {report[name]:.1f} GiB"
        for name, words in (("peak_memory_gb", "peak memory"), ("peak_gpu_memory_gb", "on the GPU"))
        if report.get(name) is not None
    ]
    return f"{', '.join(parts)}; {total:.1f} s in all; {', '.join(memory)}."

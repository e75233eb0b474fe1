"""The machine that a number was measured on, in words."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware(num_processes: int, use_cpu: bool) -> str:
    """Such as "2 processes x NVIDIA H100" or "1 process x Intel(R) Xeon(R) Processor, 1 thread"."""
    processes = f"{num_processes} process{'es' if num_processes > 1 else ''}"
    if torch.cuda.is_available() and not use_cpu:
        return f"{processes} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{processes} x {processor()}, {threads} thread{'s' if threads > 1 else ''}"


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

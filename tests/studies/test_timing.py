"""Parts of a run add up, whatever lies inside what."""

import time

import numpy as np
import pytest

from selmix_hf.studies.timing import PeakMemory, Timer, timing_line


def test_a_part_inside_another_counts_for_itself_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    timer = Timer()
    with timer.part("outer"):
        now[0] += 1
        with timer.part("inner"):
            now[0] += 5
        now[0] += 2
    now[0] += 10  # in no part
    with pytest.raises(TypeError), timer.part("outer"), timer.part("inner"):
        now[0] += "five"
    report = timer.report()
    assert report["seconds"] == {"outer": 3, "inner": 5}
    assert report["total"] == 18
    assert timing_line(report).startswith("outer 3.0 s (16.7%), inner 5.0 s (27.8%); 18.0 s in all; peak memory ")


def test_memory_that_is_given_back_counts_as_growth():
    with PeakMemory() as memory:
        block = np.ones(2**25)  # a quarter of a GiB
        del block
    assert memory.gb.get("process", 0.25) == pytest.approx(0.25, abs=0.1)
    with PeakMemory() as memory:
        pass
    assert memory.gb.get("process", 0) < 0.1

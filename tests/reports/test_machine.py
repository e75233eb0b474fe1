"""A machine in words."""

import torch

from selmix_hf.reports.machine import hardware, processor


def test_processes_processor_and_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert processor() and hardware(1, use_cpu=True) == f"1 process x {processor()}, 1 thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert hardware(2, use_cpu=True) == f"2 processes x {processor()}, 4 threads"


def test_an_accelerator_is_named_where_it_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert hardware(2, use_cpu=False) == "2 processes x NVIDIA H100"
    assert hardware(1, use_cpu=True).startswith("1 process x ") and "H100" not in hardware(1, use_cpu=True)

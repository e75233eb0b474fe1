"""SIGTERM and SIGINT during a run: noted, and agreed on by all its processes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.utils.data import get_worker_info
from transformers.utils import logging

logger = logging.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME = 1.0  # seconds; torchrun sends its processes once more what a terminal sent to all of them
_RUNS = itertools.count()  # every process counts the same


class StopSignals:
    """Inside, the first SIGTERM or SIGINT is noted; one that comes a second or more later does what it would have done
    outside. In another thread than the main one, where Python has no signals, and for a signal that is ignored,
    nothing is changed.

    Args:
        leave: makes the exception that ends a run in the middle of whatever it does: before its first step, or when
            the grace is over.
        grace: seconds after the signal in which the last checkpoint must be begun; None: any time.

    Attributes:
        number: of the signal; None while there was none.
        in_steps: whether there is a step to be ended first.

    Raises:
        ValueError: a grace that is not positive.
    """

    def __init__(self, leave: Callable[[int], BaseException], grace: float | None = None) -> None:
        if grace is not None and not grace > 0:
            raise ValueError(f"stop_grace must be a positive number of seconds, or None, found {grace!r}.")
        self.leave, self.grace = leave, grace
        self.number: int | None = None
        self.in_steps = False
        self._process, self._since = os.getpid(), 0.0
        self._timer: threading.Timer | None = None
        self._is_late = False
        self._before: dict[int, Any] = {}
        self._store: Store | None = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._store = PrefixStore(f"selmix_hf/stop/{next(_RUNS)}", _get_default_store())

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Put back what was there before."""
        self.wait_no_longer()
        while self._before:
            signal.signal(*self._before.popitem())

    def wait_no_longer(self) -> None:
        """The last checkpoint is begun: it may take its time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def asked(self, step: int, is_last: bool) -> bool:
        """Whether a run ends after this step, the same on all its processes; to be called once after every step.

        No device is waited for: a process that got a signal says in the store of the process group that the next step
        is the last one. Nobody ends that step before everybody has begun it, as gradients are averaged, so that all
        have seen it by then. Is there no next one, all wait here for each other.
        """
        store = self._store
        if store is None:
            return self.number is not None
        if self.number is not None:
            store.compare_set("asked", "", f"{step + 1} {self.number}")
        if is_last:
            store.set(f"{dist.get_rank()} is here", "")
            store.wait([f"{rank} is here" for rank in range(dist.get_world_size())])
        if not store.check(["asked"]):
            return False
        last, self.number = map(int, store.get("asked").split())
        return is_last or step >= last

    def _be_late(self) -> None:
        self._is_late = True
        os.kill(self._process, self.number or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork
            signal.signal(number, self._before[number])
            if get_worker_info() is None:
                signal.raise_signal(number)
            return  # the worker of a loader is needed to the end of the step
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if not self.in_steps:
                raise self.leave(number)
            name = signal.Signals(number).name
            sentence = f"{name}: the run ends after this step, with a checkpoint. Once more, and it ends at once."
            threading.Thread(target=logger.warning, args=(sentence,)).start()  # a handler may be inside of a print
            if self.grace is not None:
                self._timer = threading.Timer(self.grace, self._be_late)
                self._timer.daemon = True
                self._timer.start()
        elif self._is_late and self._timer is not None:
            raise self.leave(number)
        elif time.monotonic() - self._since > _SAME:
            self.close()
            signal.raise_signal(number)

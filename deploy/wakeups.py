"""Signals, turned into something a loop can wait for."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Wakeups:
    """While entered, requests to stop are counted instead of ending the process. Main thread only."""

    def __init__(self) -> None:
        self.stop_requests = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _STOP:
            self._before[number] = signal.signal(number, self._count)
        # Without a handler of Python's the wake-up descriptor would not hear of it.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._reading)
        os.close(self._writing)

    def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s`, or at once when a child ends or a signal comes."""
        ready, _, _ = select.select([self._reading], [], [], max(0.0, timeout_s))
        if ready:
            os.read(self._reading, 4096)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.stop_requests += 1

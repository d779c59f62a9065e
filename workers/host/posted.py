"""What the engine's loop has for Celery's hub to do: outcomes of tasks, and time limits.

The hub does it before it waits, and is woken for it through a socket pair: a callback that is
queued while the hub runs its ready list waits for the next poll, up to a second later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

# Of tasks that end together, as bulk work may, the hub finishes so many before it looks for new ones.
_AT_ONCE = 8
# What can wait is done when a message wakes the hub anyway, or after so long.
_LATER_S = 0.01


class Posted:
    """`post` is called on the loop, all else on the hub's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)
        self._woken = False
        self._waking = False

    def __bool__(self) -> bool:
        return bool(self._calls)

    def fileno(self) -> int:
        """Return what to write a byte to, for the hub to wake."""
        return self._write_end.fileno()

    def register(self, hub: Any) -> None:
        """Have `hub` do what is posted from now on. Again after every reconnect: it drops its readers then."""
        hub.add_reader(self._read_end.fileno(), self._on_woken)
        hub.on_tick.add(self.do)

    def post(self, call: Callable[..., None], *args: Any, soon: bool = True) -> None:
        """Have `call(*args)` run on the hub; without `soon` it may take a hundredth of a second."""
        self._calls.append((call, args))
        if soon:
            self._wake()
        elif not self._woken and not self._waking:
            self._waking = True
            self._loop.call_later(_LATER_S, self._wake_late)

    def do(self) -> None:
        """Do what is there, or part of it. Must never raise: that would end the worker."""
        for _ in range(min(len(self._calls), _AT_ONCE)):
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception:
                log.exception("task not finished", extra={"event": "task_finish_failed"})
        if self._calls:
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            # A full pipe holds wake-ups that the hub has not seen yet: one is enough.
            with contextlib.suppress(BlockingIOError):
                self._write_end.send(b"\0")

    def _wake_late(self) -> None:
        self._waking = False
        if self._calls:
            self._wake()

    def _on_woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read_end.recv(4096)
        # What is posted from here on has to wake us again; what was posted before is done before the hub waits.
        self._woken = False

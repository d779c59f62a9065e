"""Ends waits whose time is over: one thread for all of a process, since a timer of its own for each wait for a token
costs as much as the rest of that token's way through a gateway.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

EVERY_S = 0.1
"""So much later than asked a wait may end."""


class Waiter(Protocol):
    def overdue(self, now: float) -> None:
        """End the wait if it was to end by `now`, on the monotonic clock. Called whether or not anybody waits."""


class WaitClock:
    """A thread, or a greenlet; it sleeps while there is no waiter."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._any = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wait-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once the thread has ended."""
        self._stopped.set()
        self._any.set()
        self._thread.join(EVERY_S + 2)

    def add(self, waiter: Waiter) -> None:
        """Look after `waiter` until it is discarded."""
        self._waiters[waiter] = None
        if not self._any.is_set():
            self._any.set()

    def discard(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            now = time.monotonic()
            for waiter in list(self._waiters):
                waiter.overdue(now)
            if not self._waiters:
                self._any.clear()
                if self._waiters:  # it came between the two
                    self._any.set()
                self._any.wait()

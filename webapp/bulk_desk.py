"""The desk of bulk work as a gateway asks it: built at the first use, and never in the way of the loop.

What stands behind it (a database's driver, a client of Redis) is used on the thread that
built it, since under gevent a socket belongs to the loop of one thread. So there are a
few clerks, each with a thread and a desk of its own; the second is woken when the first
is busy.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import gevent

from tasks.bulk.desk import Desk
from tasks.errors import ServiceUnavailableError
from tasks.settings import Settings
from webapp import off_loop

T = TypeVar("T")

_CLERKS = 4
# As long as a client waits in line behind slow ones. A desk that cannot reach its database says so by itself.
_LINE_S = 30.0
_CLOSE_S = 2.0


class BulkDesk:
    """What `webapp.gateway.Gateway` has. Without a bulk request it costs nothing."""

    def __init__(self, build: Callable[[], Desk]) -> None:
        self._free: queue.LifoQueue[_Clerk] = queue.LifoQueue()
        for _ in range(_CLERKS):
            self._free.put(_Clerk(build))

    def ask(self, question: Callable[[Desk], T]) -> T:
        """Return the desk's answer, or raise its error."""
        try:
            clerk = self._free.get(timeout=_LINE_S)
        except queue.Empty:
            raise ServiceUnavailableError("The ledger of bulk work is slow now; repeat the request.") from None
        try:
            return clerk.answer(question)
        finally:
            self._free.put(clerk)

    def close(self) -> None:
        """Close what was built, but for a desk that is stuck: the process ends all the same."""
        with suppress(gevent.Timeout), gevent.Timeout(_CLOSE_S):
            for _ in range(_CLERKS):
                self._free.get().close()


class _Clerk:
    def __init__(self, build: Callable[[], Desk]) -> None:
        self._build = build
        self._thread = off_loop.own_thread() if off_loop.under_gevent() else None
        self._desk: Desk | None = None

    def answer(self, question: Callable[[Desk], T]) -> T:
        return self._run(lambda: question(self._opened()))

    def close(self) -> None:
        if self._desk is not None:
            self._run(self._desk.close)
            self._desk = None

    def _run(self, work: Callable[[], T]) -> T:
        return work() if self._thread is None else off_loop.on(self._thread, work)

    def _opened(self) -> Desk:
        if self._desk is None:
            self._desk = self._build()
        return self._desk


def ledger_desk(settings: Settings) -> Desk:
    """Build the real one. Its modules are imported here: they are large, and most gateways never see a batch."""
    from tasks.bulk.ledger_desk import LedgerDesk  # noqa: PLC0415

    return LedgerDesk.over(settings)

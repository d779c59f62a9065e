"""Closed and open load: who asks when."""

from __future__ import annotations

import asyncio
import itertools
import signal
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine

from deploy.bench import answer
from deploy.bench.connection import Connection
from deploy.bench.meter import Meter
from deploy.bench.plan import Endpoint, Plan, arrivals, requests_of
from deploy.gateway_http import Address

_clock = time.perf_counter
# One that is refused everything at once would do nothing but ask.
_PAUSE_S = 0.1
# Servers close what is idle after 5 s, and a request could cross that.
_STALE_S = 3.0


class Load(ABC):
    """Connections, and what they are asked. `begin` starts it, `stop` has it ask no more."""

    def __init__(self, plan: Plan, address: Address, meter: Meter) -> None:
        self.plan = plan
        self.meter = meter
        self.asked_enough = asyncio.Event()
        """Set when as many were measured as the plan wants."""
        self._requests = requests_of(plan, address)
        self._parts = address.parts()
        self._tls = ssl.create_default_context() if self._parts.scheme == "https" else None
        content = answer.CHAT if plan.endpoint is Endpoint.CHAT else answer.COMPLETION
        self._content = content if plan.stream else None
        self._numbers = itertools.count()
        self._left = plan.requests
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = True

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def _free(self, connection: Connection) -> None:
        """A connection has nothing to do any more, or has ended."""

    def stop(self) -> None:
        self._asking = False

    def waiting(self) -> int:
        """Return how many requests have not been answered."""
        return sum(connection.busy for connection in self._connections)

    def give_up_late(self) -> None:
        """End what has had its time."""
        before = _clock() - self.plan.timeout_s
        for connection in tuple(self._connections):
            connection.give_up_older(before)

    def close(self) -> None:
        self.stop()
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.close()

    def _may_ask(self) -> bool:
        """Say whether one more may be asked, and count it."""
        if not self._asking:
            return False
        if self.meter.measuring and self._left is not None:
            if self._left == 0:
                self.stop()
                return False
            self._left -= 1
            if self._left == 0:
                self.asked_enough.set()
        return True

    def _ask(self, connection: Connection, since: float, *, timed: bool) -> None:
        connection.ask(self._requests.numbered(next(self._numbers)), since, timed=timed)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> Connection | None:
        """Return a new connection, None where there is none to be had."""
        loop = asyncio.get_running_loop()
        port = self._parts.port or (443 if self._tls else 80)
        timed = self.meter.measuring
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self.meter, self._content, self._freed),
                self._parts.hostname or "",
                port,
                ssl=self._tls,
            )
        except OSError as error:
            if timed:
                self.meter.errors[f"cannot connect: {error.strerror or type(error).__name__}"] += 1
            return None
        self._connections.add(connection)
        return connection

    def _freed(self, connection: Connection) -> None:
        if not connection.usable:
            connection.close()
            self._connections.discard(connection)
        self._free(connection)


class ClosedLoad(Load):
    """Each connection asks again as soon as it is answered."""

    def begin(self) -> None:
        for _ in range(self.plan.concurrency or 1):
            self._spawn(self._seat())

    async def _seat(self) -> None:
        while self._asking:
            connection = await self._connect()
            if connection is not None:
                self._again(connection)
                return
            await asyncio.sleep(_PAUSE_S)

    def _again(self, connection: Connection) -> None:
        if not connection.usable:
            self._connections.discard(connection)
            self._spawn(self._seat())
        elif self._may_ask():
            self._ask(connection, _clock(), timed=self.meter.measuring)

    def _free(self, connection: Connection) -> None:
        if connection.error is not None:
            asyncio.get_running_loop().call_later(_PAUSE_S, self._again, connection)
        else:
            self._again(connection)


class OpenLoad(Load):
    """Requests come when the schedule says, whatever became of those before; each times counts from then."""

    def begin(self) -> None:
        assert self.plan.rate is not None
        self._backlog: deque[tuple[float, bool]] = deque()
        self._idle: list[Connection] = []
        self._connecting = 0
        self._began = _clock()
        self._schedule = arrivals(self.plan.rate, self.plan.seed)
        self._next_at = self._began + next(self._schedule)
        # The timers of event loops are as fine as a millisecond, which is what is to be measured.
        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, self._due)
        self._due()

    def stop(self) -> None:
        super().stop()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def close(self) -> None:
        super().close()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGALRM)

    def waiting(self) -> int:
        return super().waiting() + len(self._backlog)

    def give_up_late(self) -> None:
        super().give_up_late()
        before = _clock() - self.plan.timeout_s
        while self._backlog and self._backlog[0][0] < before:
            self._lose("no answer in time")

    def _due(self) -> None:
        while self._asking and self._next_at <= _clock():
            if self._may_ask():
                self._backlog.append((self._next_at, self.meter.measuring))
                self._serve()
            self._next_at = self._began + next(self._schedule)
        if self._asking:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, self._next_at - _clock()))

    def _serve(self) -> None:
        """Give what is due to connections that have nothing to do, or make one."""
        while self._backlog and (connection := self._rested()) is not None:
            since, timed = self._backlog.popleft()
            self._ask(connection, since, timed=timed)
        most = self.plan.concurrency
        if len(self._backlog) > self._connecting and (most is None or len(self._connections) + self._connecting < most):
            self._connecting += 1
            self._spawn(self._more())

    def _rested(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and _clock() - connection.freed_at < _STALE_S:
                return connection
            connection.close()
            self._connections.discard(connection)
        return None

    async def _more(self) -> None:
        try:
            connection = await self._connect()
        finally:
            self._connecting -= 1
        if connection is None:
            self._lose(None)
        else:
            connection.freed_at = _clock()
            self._free(connection)

    def _free(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)
        self._serve()

    def _lose(self, error: str | None) -> None:
        """Give up the oldest of what is due; `error` if that is not counted yet."""
        if self._backlog:
            _, timed = self._backlog.popleft()
            if timed and error:
                self.meter.errors[error] += 1

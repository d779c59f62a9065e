"""One kept-alive connection with at most one request on it, and what is measured of its answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

from deploy.bench.answer import Answer
from deploy.bench.framing import MalformedError
from deploy.bench.meter import Meter

_clock = time.perf_counter


class Connection(asyncio.Protocol):
    """`free` is called when an answer has ended, well or not; `error` then says how."""

    def __init__(self, meter: Meter, content: re.Pattern[bytes] | None, free: Callable[[Connection], None]) -> None:
        self.usable = True
        """Whether it can be asked once more."""
        self.error: str | None = None
        self.freed_at = 0.0
        self._meter = meter
        self._content = content
        self._free = free
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._since = self._last = 0.0
        self._timed = False

    @property
    def busy(self) -> bool:
        return self._answer is not None

    def ask(self, request: bytes, since: float, *, timed: bool) -> None:
        """Send a request; its times count from `since`, and only if it is `timed`."""
        assert self._transport is not None
        self._answer = Answer(self._content)
        self._since, self._last, self._timed = since, 0.0, timed
        self._transport.write(request)

    def give_up_older(self, than: float) -> None:
        """End it when what it was asked was asked before `than`."""
        if self._answer is not None and self._since < than:
            self._end("no answer in time")

    def close(self) -> None:
        """End it without a word of what was asked."""
        self.usable = False
        self._answer = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = _clock()
        answer = self._answer
        if answer is None:
            self.close()
            return
        try:
            frames = answer.feed(data)
        except MalformedError as error:
            self._end(f"not HTTP: {error}")
            return
        self._meter.came(len(data), frames)
        if frames and self._timed:
            self._time(frames, now)
        if answer.complete:
            self._complete(answer, now)

    def eof_received(self) -> None:
        if self._answer is not None:
            self._answer.close()
            if self._answer.complete:
                self._complete(self._answer, _clock())

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._answer is not None:
            self._end("connection reset" if exc else "connection closed in an answer")

    def _time(self, frames: int, now: float) -> None:
        if self._last:
            self._meter.gaps.add(now - self._last)
        else:
            self._meter.ttft.add(now - self._since)
        if frames > 1:
            self._meter.gaps.add_zeros(frames - 1)
        self._last = now

    def _complete(self, answer: Answer, now: float) -> None:
        self._answer = None
        self.freed_at = now
        self.error = answer.error()
        self.usable = self.usable and answer.keep_alive
        if self.error is None:
            self._meter.ended(now - self._since, answer.frames, answer.completion_tokens, timed=self._timed)
        elif self._timed:
            self._meter.errors[self.error] += 1
        self._free(self)

    def _end(self, error: str) -> None:
        self.close()
        self.error = error
        if self._timed:
            self._meter.errors[error] += 1
        self._free(self)

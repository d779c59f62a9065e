"""How an engine worker writes answers to Redis: one stream a request, one pipeline a wake-up.

Record ids are `<attempt>-<seq>`. Redis refuses an id that is not larger than the last,
which makes a repeated write harmless and shuts out a worker whose call was given to
another. Every write after the first also refuses to create the stream: a stream that is
gone was cancelled.

Whatever the engine produces while a pipeline is on its way goes into the next one, so
the number of round trips falls as load rises, and none waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import redis
import redis.asyncio

from tasks import keys
from tasks.messages import Delta, Done, Failed, Fields, encode_event

log = logging.getLogger(__name__)

# How long a worker goes on generating while Redis cannot be written to.
GIVE_UP_S = 20.0
_RETRY_S = 0.1


@dataclass(slots=True)
class _Record:
    id: str
    fields: Fields
    last: bool


@dataclass(slots=True, eq=False)
class Outlet:
    """The stream of one attempt at one request. Made by `StreamWriter.open`."""

    request_id: str
    attempt: int
    lost: Callable[[], None]
    begun: bool = False
    """Whether any part of the answer was handed in to be written."""
    seq: int = 0
    frames: list[bytes] = field(default_factory=list)
    unsent: list[_Record] = field(default_factory=list)
    end: Fields | None = None
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def take(self) -> list[_Record]:
        """Return what is to be written now, in order: first what may not have arrived last time."""
        if self.frames:
            self._number(encode_event(Delta(b"".join(self.frames))), last=False)
            self.frames.clear()
        if self.end is not None:
            self._number(self.end, last=True)
            self.end = None
        return self.unsent

    def _number(self, fields: Fields, *, last: bool) -> None:
        self.seq += 1
        self.unsent.append(_Record(f"{self.attempt}-{self.seq}", fields, last))

    def written(self) -> None:
        """Everything `take` returned has arrived."""
        if self.unsent and self.unsent[-1].last:
            self.sent.set()
        self.unsent.clear()

    def lose(self) -> None:
        """Nobody reads this stream any more."""
        if not self.closed:
            self.closed = True
            self.frames.clear()
            self.unsent.clear()
            self.end = None
            self.sent.set()
            self.lost()


class StreamWriter:
    """Writes the streams of one worker. Everything runs on one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._dirty: dict[Outlet, None] = {}
        self._wake = asyncio.Event()

    def open(self, request_id: str, attempt: int, *, lost: Callable[[], None]) -> Outlet:
        """Return the outlet of a claimed request.

        `lost` is called once, on the loop, when the stream was cancelled, when another
        attempt has begun, or when Redis could not be written to for `GIVE_UP_S`.
        """
        return Outlet(request_id, attempt, lost)

    def delta(self, outlet: Outlet, frames: bytes) -> None:
        """Write frames as soon as the line is free. Never blocks."""
        if not outlet.closed:
            outlet.begun = True
            outlet.frames.append(frames)
            self._touch(outlet)

    async def end(self, outlet: Outlet, event: Done | Failed) -> None:
        """Write the last record, remove the request's, and return when both are in Redis (or nobody reads)."""
        if not outlet.closed:
            outlet.end = encode_event(event)
            self._touch(outlet)
            await outlet.sent.wait()
            outlet.closed = True

    def discard(self, outlet: Outlet) -> None:
        """Write nothing more."""
        outlet.closed = True
        outlet.frames.clear()
        self._dirty.pop(outlet, None)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._dirty = list(self._dirty), {}
            await self._write(batch)

    def _touch(self, outlet: Outlet) -> None:
        self._dirty[outlet] = None
        self._wake.set()

    async def _write(self, outlets: list[Outlet]) -> None:
        clock = asyncio.get_running_loop().time
        give_up = clock() + GIVE_UP_S
        repeated = False
        while True:
            try:
                await self._send(outlets, repeated=repeated)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                if clock() > give_up:
                    log.error("streams given up", extra={"event": "streams_lost", "streams": len(outlets)})
                    for outlet in outlets:
                        outlet.lose()
                    return
                if not repeated:
                    log.warning("redis lost", extra={"event": "redis_lost", "reason": type(error).__name__})
                repeated = True
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _send(self, outlets: list[Outlet], *, repeated: bool) -> None:
        pipe = self._client.pipeline(transaction=False)
        plan: list[tuple[Outlet, int]] = []
        for outlet in outlets:
            key = keys.stream(outlet.request_id)
            records = outlet.take()
            for record in records:
                pipe.execute_command("XADD", key, "NOMKSTREAM", record.id, *_flat(record.fields))
            count = len(records)
            if records and records[-1].last:
                pipe.execute_command("EXPIRE", key, keys.STREAM_TTL_S)
                pipe.execute_command("UNLINK", keys.request(outlet.request_id))
                count += 2
            plan.append((outlet, count))
        replies = await pipe.execute(raise_on_error=False)
        at = 0
        for outlet, count in plan:
            self._settle(outlet, replies[at : at + count], repeated=repeated)
            at += count

    def _settle(self, outlet: Outlet, replies: list[object], *, repeated: bool) -> None:
        for record, reply in zip(list(outlet.unsent), replies, strict=False):
            if reply is None:
                outlet.lose()
                return
            if isinstance(reply, (redis.ConnectionError, redis.TimeoutError)):
                raise reply
            if isinstance(reply, redis.ResponseError):
                # An id that is not larger was either written by us before the reply got
                # lost, or belongs below a newer attempt's. Only a repeat can be the former.
                if repeated and "equal or smaller" in str(reply):
                    continue
                log.warning(
                    "stream refused",
                    extra={"event": "stream_refused", "request": outlet.request_id, "record": record.id},
                )
                outlet.lose()
                return
        outlet.written()


def _flat(fields: Fields) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]

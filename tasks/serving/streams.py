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
from itertools import islice

import redis

from tasks import keys
from tasks.messages import Done, Failed
from tasks.scripts import digest, script
from tasks.serving.line import Command, Line
from tasks.serving.outlet import Loss, Outlet

log = logging.getLogger(__name__)

# How long a worker goes on generating while Redis cannot be reached, or refuses every write.
GIVE_UP_S = 20.0
_RETRY_S = 0.1


class RedisRefusesError(Exception):
    """Redis answers, but takes no writes. Clients are told by their gateways, which see it as well."""


class StreamWriter:
    """Writes the streams of one worker. Everything runs on one event loop."""

    def __init__(self, line: Line, replica_id: str) -> None:
        self._line = line
        self._held = keys.held(replica_id)
        self._finish = script("finish")
        self._finish_sha = digest(self._finish)
        self._dirty: dict[Outlet, None] = {}
        self._wake = asyncio.Event()

    def delta(self, outlet: Outlet, frames: bytes, trail: bytes | None = b"") -> None:
        """Write frames as soon as the line is free. Never blocks."""
        if not outlet.closed:
            outlet.add(frames, trail)
            self._touch(outlet)

    async def end(self, outlet: Outlet, event: Done | Failed) -> None:
        """Write the last record, end the request's, and return when both are in Redis (or nobody reads)."""
        if not outlet.closed:
            outlet.end = event
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
        began = clock()
        failing: Exception | None = None
        while True:
            try:
                if failing is not None:
                    await self._compare(outlets)
                await self._send(outlets)
            except (redis.ConnectionError, redis.TimeoutError, OSError, RedisRefusesError) as error:
                if failing is None:
                    log.warning("redis lost", extra={"event": "redis_lost", "reason": type(error).__name__})
                failing = error
                if clock() - began > GIVE_UP_S:
                    log.error("streams given up", extra={"event": "streams_lost", "streams": len(outlets)})
                    for outlet in outlets:
                        outlet.lose(Loss.UNREACHABLE)
                    return
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _compare(self, outlets: list[Outlet]) -> None:
        """Before a write is repeated: find out which of it has arrived, and what Redis has forgotten meanwhile."""
        newest = await self._line.all(
            [("XREVRANGE", keys.stream(it.request_id), "+", "-", "COUNT", 1) for it in outlets]
        )
        for outlet, records in zip(outlets, newest, strict=True):
            if isinstance(records, Exception):
                raise RedisRefusesError(str(records)) from records
            if not outlet.over:
                outlet.compare(records[0][0].decode() if records else None)

    async def _send(self, outlets: list[Outlet]) -> None:
        commands = [self._put(outlet) for outlet in outlets]
        replies = await self._line.all(together := [command for mine in commands for command in mine])
        if not any(map(_is_bad, replies)):
            for outlet in outlets:
                outlet.written()
            return
        for index, reply in enumerate(replies):
            if isinstance(reply, redis.exceptions.NoScriptError):
                (replies[index],) = await self._line.all([("EVAL", self._finish, *together[index][2:])])
        following = iter(replies)
        for outlet, mine in zip(outlets, commands, strict=True):
            _settle(outlet, list(islice(following, len(mine))))

    def _put(self, outlet: Outlet) -> list[Command | bytes]:
        """Return what writes all that `outlet` has to write."""
        if outlet.over:
            return []
        commands: list[Command | bytes] = [record.command for record in outlet.take()]
        if outlet.status is None:
            return commands
        names = (keys.request(outlet.request_id), keys.stream(outlet.request_id), self._held)
        ended = (str(outlet.attempt), outlet.request_id, outlet.status.value, outlet.keep_s, keys.STREAM_TTL_S)
        # Again with every repetition: the last record may have arrived without this.
        return [*commands, ("EVALSHA", self._finish_sha, len(names), *names, *ended)]


def _is_bad(reply: object) -> bool:
    return reply is None or isinstance(reply, Exception)


def _settle(outlet: Outlet, replies: list[object]) -> None:
    """Judge the replies to what `_put` added. Raises RedisRefusesError, after which all is compared and repeated."""
    for record, reply in zip(list(outlet.unsent), replies, strict=False):
        if reply is None:
            outlet.lose(Loss.GONE)
            return
        if isinstance(reply, redis.ResponseError) and "equal or smaller" in str(reply):
            # A newer attempt writes here.
            log.warning(
                "stream refused",
                extra={
                    "event": "stream_refused",
                    "request": outlet.request_id,
                    "record": f"{outlet.attempt}-{record.seq}",
                },
            )
            outlet.lose(Loss.GONE)
            return
    for reply in replies:
        if isinstance(reply, (redis.ConnectionError, redis.TimeoutError)):
            raise reply
        if isinstance(reply, Exception):
            raise RedisRefusesError(str(reply)) from reply
    outlet.written()

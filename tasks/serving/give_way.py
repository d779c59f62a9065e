"""Has running bulk requests put back while interactive ones wait for a seat, or run slower for their company.

It asks Redis only while the engine is full and holds more bulk work than its guaranteed
part, so a worker that is idle, or has interactive work only, asks nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import redis
import redis.asyncio

from tasks import keys
from tasks.queues import Priority, model_queue, queue_list
from tasks.scripts import script
from workers.host.appetite import Shares, excess, spare

log = logging.getLogger(__name__)

_LOOK_S = 0.075
_IDLE_S = 0.25
# By then whoever way was given to has a seat, or somebody else has taken it.
_AGAIN_MS = 500


class Work(Protocol):
    """What a replica does for others: `tasks.serving.inference.Inference`."""

    def holding(self) -> tuple[int, int]: ...

    def put_back(self, count: int) -> int: ...


class GiveWay:
    """Of one engine worker; runs on its loop."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        model: str,
        work: Work,
        shares: Shares,
        *,
        seats: Callable[[], int],
        limit: Callable[[], int],
        room: Callable[[int], int | None],
        after_s: float,
    ) -> None:
        """`seats` are those of an engine that takes work, else 0; `limit` is the most it may hold now.

        `room` tells how many it may hold for so many interactive requests not to be slowed down.
        """
        self._yield = client.register_script(script("yield"))
        self._keys = [queue_list(model_queue(model), Priority.INTERACTIVE), keys.yielding(model)]
        self._work = work
        self._shares = shares
        self._seats = seats
        self._limit = limit
        self._room = room
        self._after_ms = int(1000 * after_s)

    async def run(self) -> None:
        while True:
            _, bulk = self._work.holding()
            await asyncio.sleep(_LOOK_S if bulk else _IDLE_S)
            await self.look()

    async def look(self) -> None:
        """Put back what is to be put back now. For those that wait nothing is while Redis cannot be asked."""
        if over := self._excess():
            self._put_back(over)
        if (most := self._spare()) == 0:
            return
        try:
            count = await self._yield(
                keys=self._keys,
                args=[self._after_ms, most, _AGAIN_MS, keys.request(""), keys.YIELD_TTL_S],
            )
        except (redis.RedisError, OSError) as error:
            log.debug("not asked: %r", error)
            return
        # Some may have ended while Redis was asked.
        if count:
            self._put_back(min(int(count), self._spare()))

    def _put_back(self, count: int) -> None:
        if done := self._work.put_back(count):
            log.info("bulk work gives way", extra={"event": "gives_way", "requests": done})

    def _excess(self) -> int:
        interactive, bulk = self._work.holding()
        if bulk == 0 or interactive == 0 or (seats := self._seats()) == 0:
            return 0
        return excess(self._shares, seats=seats, interactive=interactive, bulk=bulk, room=self._room(interactive))

    def _spare(self) -> int:
        interactive, bulk = self._work.holding()
        if bulk == 0 or (seats := self._seats()) == 0:
            return 0
        return spare(self._shares, seats=seats, limit=self._limit(), interactive=interactive, bulk=bulk)

"""Has running bulk requests put back while interactive ones wait for a seat.

It looks only while the engine is full and holds more bulk work than its guaranteed part,
so a worker that is idle, or has interactive work only, asks Redis nothing.
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
from workers.host.appetite import Shares, spare

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
        after_s: float,
    ) -> None:
        """`seats` are those of an engine that takes work, else 0; `limit` is the most it may hold now."""
        self._yield = client.register_script(script("yield"))
        self._keys = [queue_list(model_queue(model), Priority.INTERACTIVE), keys.yielding(model)]
        self._work = work
        self._shares = shares
        self._seats = seats
        self._limit = limit
        self._after_ms = int(1000 * after_s)

    async def run(self) -> None:
        while True:
            _, bulk = self._work.holding()
            await asyncio.sleep(_LOOK_S if bulk else _IDLE_S)
            await self.look()

    async def look(self) -> None:
        """Put back what is to be put back now. While Redis cannot be asked, nothing is."""
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
        if count and (done := self._work.put_back(min(int(count), self._spare()))):
            log.info("bulk work gives way", extra={"event": "gives_way", "requests": done})

    def _spare(self) -> int:
        interactive, bulk = self._work.holding()
        if bulk == 0 or (seats := self._seats()) == 0:
            return 0
        return spare(self._shares, seats=seats, limit=self._limit(), interactive=interactive, bulk=bulk)

"""Bulk answers do not stream, and may run for minutes: how far each is, is kept now and then for a worker's sudden end.

Whoever gives a call back on purpose hands its state in with it (`tasks.serving.inference`),
so nothing is written here for calls that somebody waits for. A state is as long as its
answer, so the longer an answer has run, the longer it goes unwritten: a death costs two
seconds of generating or a tenth of what there was, and all the writes of an answer together
are some ten times its length.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import redis

from tasks.serving.claim_store import ClaimStore
from tasks.serving.held import Held

log = logging.getLogger(__name__)

EVERY_S = 2.0
_PART_OF_RUN = 0.1
# A state of a thousand tokens takes 0.1 ms to write down, and the loop has tokens to hand on meanwhile.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was kept of one attempt. Times are those of the loop's clock."""

    began_at: float
    kept_at: float
    state: bytes = b""

    def due(self, now: float) -> bool:
        return now - self.kept_at >= max(EVERY_S, (now - self.began_at) * _PART_OF_RUN)


class Checkpoints:
    """Keeps the states of the bulk calls that a worker holds. Everything runs on its loop."""

    def __init__(self, claims: ClaimStore, held: Callable[[], Iterable[Held]]) -> None:
        self._claims = claims
        self._held = held
        self._latest: dict[tuple[str, int], Checkpoint] = {}

    def __len__(self) -> int:
        return len(self._latest)

    async def run(self) -> None:
        """Keep them until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(EVERY_S / 2)
            await self.keep(clock())

    async def keep(self, now: float) -> int:
        """Write what is due and has changed. Returns how many states that were."""
        calls = {(held.request_id, held.attempt): held for held in self._held() if held.bulk and held.released is None}
        fresh = Checkpoint(now, now)
        self._latest = {key: self._latest.get(key, fresh) for key in calls}
        due = [key for key in calls if self._latest[key].due(now)]
        written = 0
        for first in range(0, len(due), _AT_ONCE):
            states = {key: calls[key].progress.now() for key in due[first : first + _AT_ONCE]}
            written += await self._write(
                {key: state for key, state in states.items() if state and state != self._latest[key].state}, now
            )
        return written

    async def _write(self, states: dict[tuple[str, int], bytes], now: float) -> int:
        if not states:
            return 0
        try:
            await self._claims.keep(states)
        except (redis.RedisError, OSError) as error:
            log.debug("states not kept, next time again: %r", error)
            return 0
        for key, state in states.items():
            self._latest[key] = Checkpoint(self._latest[key].began_at, now, state)
        return len(states)

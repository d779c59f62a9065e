"""Has a replica sleep and wake as it is told: it takes nothing new, finishes what it has, and sleeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from tasks.records.moves import Move
from workers.engine.base import Engine
from workers.replicas import ReplicaState

log = logging.getLogger(__name__)

_LOOK_S = 0.05


class Work(Protocol):
    """What a replica does for others: `tasks.serving.inference.Inference`."""

    @property
    def busy(self) -> bool: ...


class Sleeper:
    """Everything runs on the engine's loop, except `is_dozing`."""

    def __init__(
        self,
        engine: Engine,
        work: Work,
        move: Callable[[ReplicaState], None],
        state: Callable[[], ReplicaState],
    ) -> None:
        self._engine = engine
        self._work = work
        self._move = move
        self._state = state
        self._latest = Move(ReplicaState.READY, 0.0)
        self._told = asyncio.Event()

    @property
    def is_dozing(self) -> bool:
        """Whether it takes nothing new, since it is to sleep."""
        return self._latest.to is ReplicaState.SLEEPING

    def told(self, move: Move) -> None:
        """Go there next. Of two orders the later counts, in whichever order they come."""
        if move.ordered_at < self._latest.ordered_at:
            return
        if move.to is ReplicaState.SLEEPING and self._engine.sleep_need is None:
            log.warning("cannot sleep", extra={"event": "cannot_sleep"})
            return
        self._latest = move
        self._told.set()

    async def run(self) -> None:
        """Follow what is told, for ever. Raises EngineDeadError when the engine does not sleep or wake."""
        while True:
            await self._told.wait()
            self._told.clear()
            if self._latest.to is ReplicaState.SLEEPING:
                await self._sleep()
            elif self._state() is ReplicaState.SLEEPING:
                await self._engine.wake()
                self._move(ReplicaState.READY)

    async def _sleep(self) -> None:
        """Sleep once nothing runs any more, unless something else is told meanwhile."""
        while self._work.busy:
            if not self.is_dozing:
                return
            await asyncio.sleep(_LOOK_S)
        if self._state() is ReplicaState.READY and self.is_dozing:
            await self._engine.sleep()
            self._move(ReplicaState.SLEEPING)

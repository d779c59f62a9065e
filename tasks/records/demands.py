"""What is asked of each model: what waits in its queues now, and what the loader remembers of before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import orjson
import redis

from tasks import keys
from tasks.queues import Priority
from tasks.records import waiting
from tasks.records.nodes import redis_time
from tasks.records.waiting import NOTHING, Waiting
from tasks.records.wishes import Wish
from workers.placement.facts import Demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one tick leaves to the next. `peaks` are (time, requests waiting and running), the latest last."""

    last_request_at: float | None = None
    scaled_at: float | None = None
    peaks: tuple[tuple[float, int], ...] = ()

    def seen(self, now: float, load: int, *, window_s: float, step_s: float = 5.0) -> Memory:
        """Return the memory after a look that found `load` requests waiting or running."""
        recent = tuple((at, peak) for at, peak in self.peaks if now - at < window_s)
        if recent and now - recent[-1][0] < step_s:
            recent = (*recent[:-1], (recent[-1][0], max(recent[-1][1], load)))
        else:
            recent = (*recent, (now, load))
        return Memory(last_request_at=now if load else self.last_request_at, scaled_at=self.scaled_at, peaks=recent)

    @property
    def peak(self) -> int:
        return max((load for _, load in self.peaks), default=0)


class DemandStore:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def waiting(self, models: Iterable[str], now: float) -> dict[str, dict[Priority, Waiting]]:
        """Count what waits for each of `models`, and for how long the oldest has.

        A request that was told to come back counts as one that waits, until `served`.
        """
        names = list(models)
        found = waiting.read(self._client, names, now)
        if not names:
            return found
        asked = cast("list[bytes | None]", self._client.mget([keys.asked(name) for name in names]))
        for name, at in zip(names, asked, strict=True):
            if at and not found[name][Priority.INTERACTIVE].count:
                found[name][Priority.INTERACTIVE] = Waiting(1, max(0.0, now - float(at)))
        return found

    def ask(self, model: str) -> None:
        """Have the model loaded though nothing is queued for it: its client comes back. Lapses if it does not.

        It is demand as any other, so that nothing is moved for it that a request could not move.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.set(keys.asked(model), str(redis_time(self._client)), nx=True, ex=keys.ASKED_TTL_S)
        pipe.expire(keys.asked(model), keys.ASKED_TTL_S)
        pipe.execute()

    def served(self, models: Iterable[str]) -> None:
        """Forget who asked for what is ready now."""
        if names := [keys.asked(model) for model in models]:
            self._client.unlink(*names)

    def memories(self, models: Iterable[str]) -> dict[str, Memory]:
        names = list(models)
        if not names:
            return {}
        found = cast("list[bytes | None]", self._client.mget([keys.demand(name) for name in names]))
        return {name: _memory(text) for name, text in zip(names, found, strict=True)}

    def remember(self, memories: Mapping[str, Memory]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for name, memory in memories.items():
            text = orjson.dumps([memory.last_request_at, memory.scaled_at, memory.peaks])
            pipe.set(keys.demand(name), text, ex=keys.LOADER_MEMORY_TTL_S)
        pipe.execute()


def demand(model: str, levels: Mapping[Priority, Waiting], memory: Memory, wish: Wish | None) -> Demand:
    """Put together what the planner is told of one model."""
    interactive = levels.get(Priority.INTERACTIVE, NOTHING)
    bulk = levels.get(Priority.BULK, NOTHING)
    return Demand(
        model=model,
        interactive=interactive.count,
        bulk=bulk.count,
        interactive_oldest_s=interactive.oldest_s or 0.0,
        bulk_oldest_s=bulk.oldest_s or 0.0,
        last_request_at=memory.last_request_at,
        peak=memory.peak if memory.peaks else None,
        scaled_at=memory.scaled_at,
        load=wish is Wish.LOAD,
        unload=wish is Wish.UNLOAD,
    )


def _memory(text: bytes | None) -> Memory:
    if not text:
        return Memory()
    last_request_at, scaled_at, peaks = orjson.loads(text)
    return Memory(last_request_at=last_request_at, scaled_at=scaled_at, peaks=tuple((at, load) for at, load in peaks))

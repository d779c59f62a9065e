"""What is asked of each model: what waits in its queues now, and what the loader remembers of before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from tasks import keys
from tasks.queues import Priority, model_queue, queue_list
from tasks.wishes import Wish
from workers.placement.facts import Demand


@dataclass(frozen=True, slots=True)
class Waiting:
    """One list of one model. `oldest_s` is 0 when it is empty."""

    count: int = 0
    oldest_s: float = 0.0


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
        """Count what waits for each of `models`, and for how long the oldest has."""
        names = list(models)
        lists = {(name, level): queue_list(model_queue(name), level) for name in names for level in Priority}
        pipe = self._client.pipeline(transaction=False)
        for key in lists.values():
            pipe.llen(key)
            pipe.lindex(key, -1)  # kombu pushes on the left and pops on the right
        replies: list[Any] = pipe.execute()
        admitted = self._admitted([raw for raw in replies[1::2] if raw])
        found: dict[str, dict[Priority, Waiting]] = {name: {} for name in names}
        for (name, level), count, raw in zip(lists, replies[::2], replies[1::2], strict=True):
            at = admitted.get(raw)
            found[name][level] = Waiting(count, max(0.0, now - at) if at is not None else 0.0)
        return found

    def memories(self, models: Iterable[str]) -> dict[str, Memory]:
        names = list(models)
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.get(keys.demand(name))
        return {name: _memory(text) for name, text in zip(names, pipe.execute(), strict=True)}

    def remember(self, memories: Mapping[str, Memory]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for name, memory in memories.items():
            text = orjson.dumps([memory.last_request_at, memory.scaled_at, memory.peaks])
            pipe.set(keys.demand(name), text, ex=keys.LOADER_MEMORY_TTL_S)
        pipe.execute()

    def _admitted(self, messages: list[bytes]) -> dict[bytes, float]:
        ids = {raw: request_id for raw in messages if (request_id := _request_id(raw))}
        pipe = self._client.pipeline(transaction=False)
        for request_id in ids.values():
            pipe.hget(keys.request(request_id), "admitted_ms")
        return {raw: float(ms) / 1000 for raw, ms in zip(ids, pipe.execute(), strict=True) if ms}


def demand(model: str, waiting: Mapping[Priority, Waiting], memory: Memory, wish: Wish | None) -> Demand:
    """Put together what the planner is told of one model."""
    interactive = waiting.get(Priority.INTERACTIVE, Waiting())
    bulk = waiting.get(Priority.BULK, Waiting())
    return Demand(
        model=model,
        interactive=interactive.count,
        bulk=bulk.count,
        interactive_oldest_s=interactive.oldest_s,
        bulk_oldest_s=bulk.oldest_s,
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


def _request_id(message: bytes) -> str | None:
    """Return the task id, which is the request's; None for what is no message of ours."""
    try:
        return str(orjson.loads(message)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return None

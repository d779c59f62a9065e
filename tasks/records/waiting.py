"""What waits in the queues of models now: how much, and since when. For the loader and for people alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from tasks import keys
from tasks.queues import Priority, model_queue, queue_list


@dataclass(frozen=True, slots=True)
class Waiting:
    """One list of one model. `oldest_s` is None when it is empty, or its oldest message is none of ours."""

    count: int = 0
    oldest_s: float | None = None


NOTHING = Waiting()


def read(client: redis.Redis, models: Iterable[str], now: float) -> dict[str, dict[Priority, Waiting]]:
    """Count what waits for each of `models`, and for how long the oldest has. Raises redis.RedisError."""
    names = list(models)
    lists = {(name, level): queue_list(model_queue(name), level) for name in names for level in Priority}
    pipe = client.pipeline(transaction=False)
    for key in lists.values():
        pipe.llen(key)
    counts: list[int] = pipe.execute()
    waiting = {place: count for place, count in zip(lists, counts, strict=True) if count}
    for place in waiting:
        pipe.lindex(lists[place], -1)  # kombu pushes on the left and pops on the right
    oldest: list[Any] = pipe.execute() if waiting else []
    admitted = _admitted(client, [raw for raw in oldest if raw])
    found = {name: dict.fromkeys(Priority, NOTHING) for name in names}
    for ((name, level), count), raw in zip(waiting.items(), oldest, strict=True):
        at = admitted.get(raw)
        found[name][level] = Waiting(count, None if at is None else max(0.0, now - at))
    return found


def oldest_s(levels: Mapping[Priority, Waiting]) -> float | None:
    """Return the age of the oldest request of one model, None when none waits."""
    return max((level.oldest_s for level in levels.values() if level.oldest_s is not None), default=None)


def _admitted(client: redis.Redis, messages: list[bytes]) -> dict[bytes, float]:
    """Return when the request of each message was accepted; without those whose record is gone."""
    ids = {raw: request_id for raw in messages if (request_id := _request_id(raw))}
    if not ids:
        return {}
    pipe = client.pipeline(transaction=False)
    for request_id in ids.values():
        pipe.hget(keys.request(request_id), "admitted_ms")
    return {raw: float(ms) / 1000 for raw, ms in zip(ids, pipe.execute(), strict=True) if ms}


def _request_id(message: bytes) -> str | None:
    """Return the task id, which is the request's; None for what is no message of ours."""
    try:
        return str(orjson.loads(message)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return None

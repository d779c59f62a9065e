"""Looks at the records of all requests a few times a second, to know afterwards what became of each.

A request that is given to a second worker stands for longer than the time between two
looks, since its first worker must be missed before that.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import redis

from tasks import keys
from tests.faults.system import System

_EVERY_S = 0.2


@dataclass(slots=True)
class Seen:
    """The most that was ever seen in a request's record."""

    tries: int = 0
    migrations: int = 0
    deaths: int = 0


class Watcher:
    """A thread of its own, from `start` to `stop`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._seen: dict[str, Seen] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def of(self, request_id: str) -> Seen:
        return self._seen.get(request_id, Seen())

    def _run(self) -> None:
        with self._system.client() as client:
            while not self._stopping.wait(_EVERY_S):
                with contextlib.suppress(redis.RedisError, OSError):
                    self._look(client)

    def _look(self, client: redis.Redis) -> None:
        found: list[bytes] = list(client.scan_iter(keys.request("*"), count=1000))
        pipe = client.pipeline(transaction=False)
        for key in found:
            pipe.hmget(key, "tries", "migrations", "deaths")
        replies: list[Any] = pipe.execute()
        for key, values in zip(found, replies, strict=True):
            seen = self._seen.setdefault(key.decode().removeprefix(keys.request("")), Seen())
            tries, migrations, deaths = (int(value or 0) for value in values)
            seen.tries = max(seen.tries, tries)
            seen.migrations = max(seen.migrations, migrations)
            seen.deaths = max(seen.deaths, deaths)

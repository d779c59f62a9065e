"""One loader at a time, and what an overtaken one wrote does not count: a lock with an epoch."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

import redis

from tasks import keys
from tasks.scripts import script

_T = TypeVar("_T")

# A tick takes some ten milliseconds; whoever takes so long is taken for dead. If it was only slow, its epoch stops it.
LEADS_S = 5.0


class Leadership:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._lead = client.register_script(script("lead"))
        self._resign = client.register_script(script("resign"))

    def led(self, turn: Callable[[int], _T]) -> _T | None:
        """Return what `turn(epoch)` does, again as long as others asked for a look meanwhile; None if others lead."""
        result = None
        while True:
            token = secrets.token_hex(8)
            names = [keys.LOADER_LOCK, keys.LOADER_EPOCH, keys.LOADER_AGAIN]
            epoch = int(self._lead(keys=names, args=[token, int(LEADS_S * 1000)]))
            if not epoch:
                return result
            asked = 0
            try:
                result = turn(epoch)
            finally:
                asked = self._resign(keys=[keys.LOADER_LOCK, keys.LOADER_AGAIN], args=[token])
            if not asked:
                return result

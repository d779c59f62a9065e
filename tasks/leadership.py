"""One loader at a time, and what an overtaken one wrote does not count: a lock with an epoch."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tasks import keys
from tasks.scripts import script

# A tick takes some ten milliseconds; whoever takes so long is taken for dead.
LEADS_S = 15.0


class Leadership:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._lead = client.register_script(script("lead"))
        self._resign = client.register_script(script("resign"))

    @contextmanager
    def tried(self) -> Iterator[int | None]:
        """Give the epoch of our turn, or None while somebody else leads."""
        token = secrets.token_hex(8)
        epoch = int(self._lead(keys=[keys.LOADER_LOCK, keys.LOADER_EPOCH], args=[token, int(LEADS_S * 1000)]))
        if not epoch:
            yield None
            return
        try:
            yield epoch
        finally:
            self._resign(keys=[keys.LOADER_LOCK], args=[token])

"""That the loader need not look for a while, and what would end that: written by it, read by beat.

So an idle site is asked one question every two seconds in place of some sixty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import orjson
import redis

from tasks import keys


class CalmStore:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def say(self, signs: Sequence[str], for_s: float) -> None:
        """Have it hold for so long, or until one of the keys `signs` stands; 0: not at all."""
        if for_s > 0:
            self._client.set(keys.LOADER_CALM, orjson.dumps(signs), px=max(1, int(1000 * for_s)))
        else:
            self._client.unlink(keys.LOADER_CALM)

    def holds(self) -> bool:
        text = cast("bytes | None", self._client.get(keys.LOADER_CALM))
        if text is None:
            return False
        signs: list[str] = orjson.loads(text)
        return not signs or not self._client.exists(*signs)

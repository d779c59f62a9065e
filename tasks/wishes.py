"""What operators ask of the loader: load a model, unload it, or leave everything as it is (the kill switch)."""

from __future__ import annotations

from enum import StrEnum
from typing import cast

import redis

from tasks import keys


class Wish(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"


class WishStore:
    """Blocking; raises redis.RedisError. The later wish for a model replaces the earlier."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def wish(self, model: str, wish: Wish) -> None:
        self._client.set(keys.wish(model), wish.value, ex=keys.LOADER_MEMORY_TTL_S)

    def fulfilled(self, model: str) -> None:
        self._client.delete(keys.wish(model))

    def of(self, models: list[str]) -> dict[str, Wish]:
        """Return the wishes there are for `models`."""
        if not models:
            return {}
        found = cast("list[bytes | None]", self._client.mget([keys.wish(model) for model in models]))
        return {model: Wish(text.decode()) for model, text in zip(models, found, strict=True) if text}

    def switch(self, *, automatic: bool) -> None:
        """Turn the kill switch: while it is not automatic, the loader moves nothing but what was wished for."""
        if automatic:
            self._client.delete(keys.LOADER_OFF)
        else:
            self._client.set(keys.LOADER_OFF, "")

    @property
    def automatic(self) -> bool:
        return not self._client.exists(keys.LOADER_OFF)

"""What operators ask of the loader: load a model, unload it, or leave everything as it is (the kill switch)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import redis

from tasks import keys
from tasks.scripts import script


class Wish(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Given:
    """A wish as it is written down: two that say the same are still two."""

    wish: Wish
    text: bytes


class WishStore:
    """Blocking; raises redis.RedisError. The later wish for a model replaces the earlier."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._forget = client.register_script(script("unwish"))

    def wish(self, model: str, wish: Wish) -> None:
        self._client.set(keys.wish(model), f"{wish.value}:{secrets.token_hex(4)}", ex=keys.LOADER_MEMORY_TTL_S)

    def given(self, models: Sequence[str]) -> dict[str, Given]:
        """Return the wishes there are for `models`."""
        if not models:
            return {}
        found = cast("list[bytes | None]", self._client.mget([keys.wish(model) for model in models]))
        return {model: Given(_wish(text), text) for model, text in zip(models, found, strict=True) if text}

    def of(self, models: Sequence[str]) -> dict[str, Wish]:
        """As `given`, for those who only look."""
        return {model: given.wish for model, given in self.given(models).items()}

    def forget(self, model: str, given: Given) -> None:
        """The wish has come true, or cannot; one that was made since `given` was read stays."""
        command: Any = self._forget
        command(keys=[keys.wish(model)], args=[given.text])

    def switch(self, *, automatic: bool) -> None:
        """Turn the kill switch: while it is not automatic, the loader moves nothing but what was wished for."""
        if automatic:
            self._client.delete(keys.LOADER_OFF)
        else:
            self._client.set(keys.LOADER_OFF, "")

    @property
    def automatic(self) -> bool:
        return not self._client.exists(keys.LOADER_OFF)


def _wish(text: bytes) -> Wish:
    return Wish(text.decode().partition(":")[0])

"""What somebody who waits for a model can expect: written by the loader at every tick, read by gateways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import orjson
import redis

from tasks import keys
from workers.placement.actions import Explanation, Outlook

# The loader looks every two seconds, and whenever somebody asks it to.
LATEST_S = 5


class OutlookStore:
    """Blocking; raises redis.RedisError. What no tick has said again lapses."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def write(self, explanations: Mapping[str, Explanation]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for model, explanation in explanations.items():
            pipe.set(keys.outlook(model), orjson.dumps(asdict(explanation)), ex=keys.OUTLOOK_TTL_S)
        pipe.execute()

    def of(self, model: str) -> Explanation | None:
        return self.of_all([model]).get(model)

    def of_all(self, models: Sequence[str]) -> dict[str, Explanation]:
        """Return what there is for `models`."""
        if not models:
            return {}
        found = cast("list[bytes | None]", self._client.mget([keys.outlook(model) for model in models]))
        return {model: _decode(text) for model, text in zip(models, found, strict=True) if text}

    def forget(self, model: str) -> None:
        """What was said of it no longer holds; the next tick says anew."""
        self._client.delete(keys.outlook(model))

    def latest(self, models: Sequence[str], *, refusals: bool = False) -> dict[str, Explanation]:
        """Return what one of the latest ticks said of `models`: what is older may be so no more.

        With `refusals`, also why somebody was refused a little before that: who asks why comes to look only then.
        """
        pipe = self._client.pipeline(transaction=False)
        for model in models:
            pipe.get(keys.outlook(model))
            pipe.pttl(keys.outlook(model))
        found: list[Any] = pipe.execute() if models else []
        oldest_ms = (keys.OUTLOOK_TTL_S - LATEST_S) * 1000
        said = {
            model: (_decode(text), left_ms > oldest_ms)
            for model, text, left_ms in zip(models, found[::2], found[1::2], strict=True)
            if text
        }
        return {model: it for model, (it, new) in said.items() if new or (refusals and it.code)}


def _decode(text: bytes) -> Explanation:
    fields: dict[str, Any] = orjson.loads(text)
    return Explanation(
        outlook=Outlook(fields["outlook"]),
        text=fields["text"],
        retry_after_s=fields["retry_after_s"],
        instead=fields["instead"],
        progress=fields.get("progress"),
    )

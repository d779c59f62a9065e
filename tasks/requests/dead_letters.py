"""Requests that are not tried again, since workers died whenever they ran them.

Lua/requeue.lua buries them; here an operator looks at them, and has one run once more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import redis

from tasks import keys
from tasks.messages import Call, decode_call
from tasks.requests.request_store import Admission, RequestStore

# The answer to a replayed request stands so long for whoever asks for it.
REPLAY_KEEP_S = 86_400
# Nobody listens to a replay: this stands where a gateway's name would.
_NO_GATEWAY = "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A request as it was when it was given up. `died_at` is a Unix second of Redis' clock."""

    call: Call
    reason: str
    died_at: float
    deaths: int
    produced: bytes
    """What of the answer was written before: SSE frames."""

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Raise KeyError or ValueError when `fields` is no dead letter."""
        return cls(
            call=decode_call(fields),
            reason=fields[b"reason"].decode(),
            died_at=int(fields[b"died_ms"]) / 1000,
            deaths=int(fields.get(b"deaths", b"0")),
            produced=fields.get(b"produced", b""),
        )


class DeadLetters:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def all(self) -> list[DeadLetter]:
        """Return every dead letter that still stands, the latest first."""
        ids: list[Any] = cast("list[Any]", self._client.zrange(keys.DEAD_LETTERS, 0, -1, desc=True))
        found = (self.get(request_id.decode()) for request_id in ids)
        return [letter for letter in found if letter is not None]

    def get(self, request_id: str) -> DeadLetter | None:
        fields = cast("dict[bytes, bytes]", self._client.hgetall(keys.dead_letter(request_id)))
        return DeadLetter.decode(fields) if fields else None

    def replay(self, letter: DeadLetter, *, new_id: str, max_depth: int) -> Admission:
        """Queue the letter's request as a fresh one under `new_id`, with no deaths to its name.

        Its caller can fetch the answer for `REPLAY_KEEP_S`. The letter stands on.
        """
        call = dataclasses.replace(letter.call, id=new_id, gateway="", keep_s=REPLAY_KEEP_S)
        return RequestStore(self._client).admit(call, gateway_id=_NO_GATEWAY, max_depth=max_depth)

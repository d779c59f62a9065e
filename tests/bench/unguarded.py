"""The same engine worker without what keeps a request from being lost, to see what that costs.

Celery loads this module instead of `tasks.app`. Switched off: the fence (attempts, ids of
our own, streams that are not made anew), the record of who holds what, the heartbeat, and
the token ids beside each piece of an answer.
"""

from __future__ import annotations

from typing import Any

import hiredis

from tasks import keys
from tasks.app import app
from tasks.messages import decode_call
from tasks.serving import streams
from tasks.serving.claim_store import Claim, ClaimStore, Refusal, Verdict
from tasks.serving.heartbeat import Heartbeat
from tasks.serving.line import Command
from tasks.serving.outlet import Outlet

__all__ = ["app"]

_TAKE = """
redis.call('XADD', KEYS[2], '*', 'k', 'started', 'replica', ARGV[1], 'attempt', '1')
redis.call('EXPIRE', KEYS[2], 7200)
return redis.call('HGETALL', KEYS[1])
"""


class UnguardedClaims(ClaimStore):
    async def claim(self, request_id: str, token: str) -> Claim | Refusal:
        take = self._client.register_script(_TAKE)
        reply: list[Any] = await take(keys=[keys.request(request_id), keys.stream(request_id)], args=[self._replica_id])
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return Claim(decode_call(fields), 1, "", 0) if fields else Refusal(Verdict.GONE, 0)


class UnguardedWriter(streams.StreamWriter):
    def _put(self, outlet: Outlet) -> list[Command | bytes]:
        key = keys.stream(outlet.request_id)
        commands: list[Command | bytes] = [("XADD", key, "*", *_fields(record.command)) for record in outlet.take()]
        if outlet.status is None:
            return commands
        return [*commands, ("EXPIRE", key, keys.STREAM_TTL_S), ("UNLINK", keys.request(outlet.request_id))]


def _fields(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    fields: list[bytes] = reader.gets()[4:]
    return fields


def _add(self: Outlet, frames: bytes, trail: bytes | None) -> None:
    self.frames.append(frames)


def _turn(self: Heartbeat) -> None:
    if self._facts_at == float("-inf"):  # a change of state: whoever started us waits for it
        self._facts_at = 0.0
        self._record.beat(self._worker.replica_facts(), frozenset())
        self._pulse.beat(self._replica_id, 86_400)


Outlet.add = _add  # type: ignore[method-assign]
Heartbeat._turn = _turn  # type: ignore[method-assign]

from tasks.serving import engine_worker  # noqa: E402 - it binds the classes that stand above

engine_worker.ClaimStore = UnguardedClaims  # type: ignore[attr-defined]
engine_worker.StreamWriter = UnguardedWriter  # type: ignore[attr-defined]

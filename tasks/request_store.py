"""The record of every accepted call, and the scripts that move it between its states.

    (queued) ──claim──▶ (claimed by a replica, attempt n) ──finish──▶ gone
       ▲  └──cancel──▶ gone        │  └──cancel──▶ gone; the replica is told
       └─────────release───────────┘

Each arrow is one Lua script, since gateways and workers decide at the same time.
The record's last removal, `finish`, is part of the worker's last write
(`tasks.streams`), so that an answer and its record cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, cast

import redis
import redis.asyncio

from tasks import keys
from tasks.envelope import INFER, envelope
from tasks.messages import Call, decode_call, encode_call
from tasks.queues import model_queue, queue_list

# A call that was running when two workers died is not given to a third.
MAX_ATTEMPTS = 2


class Verdict(StrEnum):
    """Why a claim was refused; the meanings stand in lua/claim.lua."""

    GONE = "gone"
    HELD = "held"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"
    BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Claim:
    """A call that is ours to run."""

    call: Call
    attempt: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that is not. `attempt` is ours to write under when the verdict is a failure, else 0."""

    verdict: Verdict
    attempt: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is needed to take an admitted call back."""

    call: Call
    message: bytes


def script(name: str) -> str:
    return resources.files("tasks").joinpath("lua", f"{name}.lua").read_text("utf-8")


def life_s(call: Call) -> int:
    """Return how long, in seconds, anything of the call may stand in Redis."""
    return int(call.queue_wait_s + call.total_s + keys.REQUEST_GRACE_S)


class RequestStore:
    """The gateway's side: accept a call, take it back. Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._admit = client.register_script(script("admit"))
        self._cancel = client.register_script(script("cancel"))

    def admit(self, call: Call, *, max_depth: int) -> Ticket | int:
        """Record and queue the call, or return how many wait already when that is `max_depth` or more."""
        queue = model_queue(call.model)
        message = envelope(
            task=INFER,
            task_id=call.id,
            args=(call.id,),
            queue=queue,
            priority=call.priority,
            time_limit_s=call.total_s,
        )
        fields = [part for pair in encode_call(call).items() for part in pair]
        waiting = self._admit(
            keys=[keys.request(call.id), queue_list(queue, call.priority), keys.wake(call.gateway)],
            args=[
                max_depth,
                life_s(call),
                message,
                int(call.queue_wait_s * 1000),
                keys.GATEWAY_TTL_S if call.gateway else 0,
                *fields,
            ],
        )
        return Ticket(call, message) if waiting == -1 else cast(int, waiting)

    def cancel(self, ticket: Ticket) -> bool:
        """Forget the call. Returns whether a worker had it, which is then told."""
        call = ticket.call
        told = self._cancel(
            keys=[keys.request(call.id), keys.stream(call.id), queue_list(model_queue(call.model), call.priority)],
            args=[ticket.message, keys.control(""), keys.CONTROL_TTL_S, call.id],
        )
        return bool(told)


class ClaimStore:
    """The worker's side: make a call ours, or give it up. Coroutines; raise redis.RedisError."""

    def __init__(self, client: redis.asyncio.Redis, replica_id: str) -> None:
        self._replica_id = replica_id
        self._claim = client.register_script(script("claim"))
        self._release = client.register_script(script("release"))

    async def claim(self, request_id: str, token: str) -> Claim | Refusal:
        """Claim the call and write `Started` to its stream, in one step.

        `token` names the delivery that asks; a claim repeated with it does no harm.
        """
        reply: list[Any] = await self._claim(
            keys=[keys.request(request_id), keys.stream(request_id)],
            args=[self._replica_id, keys.replica(""), MAX_ATTEMPTS, keys.CLAIMED_STREAM_TTL_S, token],
        )
        verdict = reply[0].decode()
        if verdict != "claimed":
            return Refusal(Verdict(verdict), int(reply[1]) if len(reply) > 1 else 0)
        return Claim(decode_call(dict(zip(reply[2::2], reply[3::2], strict=True))), int(reply[1]))

    async def release(self, request_id: str) -> bool:
        """Let another worker claim the call. False when it was no longer ours."""
        return bool(await self._release(keys=[keys.request(request_id)], args=[self._replica_id]))

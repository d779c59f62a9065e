"""The record of every accepted call, and the gateway's scripts that move it between its states.

                 ┌──────────────── requeue (a worker died, or gives it up) ◀──┐
                 ▼                                                            │
    admit ──▶ (queued) ──claim──▶ (claimed by a replica, attempt n) ──────────┤
                 │                     │                │                     │
              cancel                cancel           finish                condemn
                 ▼                     ▼                ▼                     ▼
                        gone; or ended, as long as it is kept          a dead letter too

Each arrow is one Lua script, since gateways, workers and reapers decide at the same
time. `finish` is part of the worker's last write (`tasks.serving.streams`), so that an answer and
its record cannot disagree. The worker's side is `tasks.serving.claim_store`, the reapers'
`tasks.requests.reaper`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

import redis

from tasks import keys
from tasks.envelope import INFER, envelope
from tasks.messages import Call, decode_call, encode_call
from tasks.queues import Priority, model_queue, queue_list
from tasks.requests.dispatch import Once, RequestFacts, RequestStatus
from tasks.scripts import script
from tasks.shared_line import SharedLine


@dataclass(frozen=True, slots=True)
class Queued:
    """The call waits for a worker."""


@dataclass(frozen=True, slots=True)
class Full:
    """The call was refused; so many wait already."""

    waiting: int


@dataclass(frozen=True, slots=True)
class Slow:
    """The call was refused: behind those that wait already it would wait longer than it may."""

    waiting: int


@dataclass(frozen=True, slots=True)
class Hindered:
    """The call was not queued, as it was not to be, and repeats none that was."""


class Readiness(StrEnum):
    """How a call finds its model. The words are the script's."""

    WARM = ""
    COLD = "cold"
    """Nobody serves the queue, so that its pace of before says nothing."""
    HINDERED = "hindered"
    """The call is not to be queued; what it repeats is still found."""


@dataclass(frozen=True, slots=True)
class Same:
    """The call repeats an earlier one, whose answer is its own."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Reused:
    """The call's idempotency key stands for another request."""


Admission = Queued | Full | Slow | Hindered | Same | Reused


def life_s(call: Call) -> int:
    """Return how long, in seconds, anything of the call may stand in Redis."""
    return int(call.queue_wait_s + call.total_s + keys.REQUEST_GRACE_S)


def list_of(call: Call) -> str:
    """Return the Redis list that holds the call's message while it waits."""
    return queue_list(model_queue(call.model), call.priority)


def message_of(call: Call, attempt: int = 0) -> bytes:
    """Return the Celery message of a call whose latest attempt is `attempt`; 0: there was none."""
    return envelope(
        task=INFER,
        task_id=call.id,
        tag=f"{call.id}.{attempt}" if attempt else call.id,
        args=(call.id,),
        queue=model_queue(call.model),
        priority=call.priority,
        time_limit_s=call.total_s,
    )


# A call that was accepted once is not refused, whatever waits.
_ANY_DEPTH = -1
# A message may be between the queue and a claim for so long.
_ON_ITS_WAY_MS = 3000


class RequestStore:
    """The gateway's side. Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._line = SharedLine(client)
        self._admit = client.register_script(script("admit"))
        self._cancel = client.register_script(script("cancel"))
        self._mend = client.register_script(script("mend"))
        self._divert = client.register_script(script("divert"))

    def admit(
        self,
        call: Call,
        *,
        gateway_id: str,
        max_depth: int,
        once: Once | None = None,
        readiness: Readiness = Readiness.WARM,
    ) -> Admission:
        """Record and queue the call, unless `max_depth` wait already or `once` says that it was queued before."""
        names, args = _admission(call, gateway_id, max_depth, once, readiness)
        try:
            reply: list[Any] = self._line.call("EVALSHA", self._admit.sha, len(names), *names, *args)
        except redis.exceptions.NoScriptError:
            reply = self._admit(keys=names, args=args)
        match reply[0]:
            case b"queued":
                return Queued()
            case b"full":
                return Full(int(reply[1]))
            case b"slow":
                return Slow(int(reply[1]))
            case b"hindered":
                return Hindered()
            case b"same":
                return Same(reply[1].decode())
            case _:
                return Reused()

    def admit_all(self, calls: Sequence[Call], *, gateway_id: str) -> None:
        """Record and queue calls, however many wait; those that are recorded already are left as they are."""
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            names, args = _admission(call, gateway_id, _ANY_DEPTH, None, Readiness.WARM)
            self._admit(keys=names, args=args, client=pipe)
        pipe.execute()

    def record(self, request_id: str) -> tuple[Call, RequestFacts] | None:
        """Return what is known of a request; None when nothing is."""
        fields = cast("dict[bytes, bytes]", self._client.hgetall(keys.request(request_id)))
        # A field that was set on a record at the moment it lapsed leaves one without a call.
        return _record(fields) if b"body" in fields else None

    def cancel(self, call: Call) -> bool:
        """Forget the call, or end it if it is kept. Returns whether a worker had it, which is then told."""
        told = self._cancel(keys=_cancel_keys(call), args=_cancel_args(call, self._attempt(call)))
        return bool(told)

    def cancel_all(self, calls: Sequence[Call]) -> None:
        """As `cancel`, of many at once."""
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            pipe.hmget(keys.request(call.id), "attempt", "model")
        for call, (attempt, model) in zip(calls, pipe.execute(), strict=True):
            if attempt is not None and model is not None:
                it = replace(call, model=model.decode())
                self._cancel(keys=_cancel_keys(it), args=_cancel_args(it, int(attempt)), client=pipe)
        pipe.execute()

    def divert(self, call: Call, model: str) -> bool:
        """Have another model answer the call. Returns whether it will: not what a worker has, or had begun."""
        to, attempt = replace(call, model=model), self._attempt(call)
        moved = self._divert(
            keys=[keys.request(call.id), keys.stream(call.id), list_of(call), list_of(to)],
            args=[message_of(call, attempt), message_of(to, attempt), model],
        )
        return bool(moved)

    def untaken(self, calls: Sequence[Call]) -> list[Call]:
        """Return those of `calls` that no worker has now, and that have not ended."""
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            pipe.hmget(keys.request(call.id), "attempt", "replica", "ended")
        return [call for call, found in zip(calls, pipe.execute(), strict=True) if found[0] and not any(found[1:])]

    def position(self, call: Call) -> int | None:
        """Return the call's place in its queue; 1 is the next. None when it does not stand there."""
        message: Any = message_of(call, self._attempt(call))  # redis-py's types know only text here
        pipe = self._client.pipeline()
        # Workers take from the right, so the search begins there.
        pipe.lpos(list_of(call), message, rank=-1)
        pipe.llen(list_of(call))
        if call.priority is not Priority.INTERACTIVE:
            pipe.llen(queue_list(model_queue(call.model), Priority.INTERACTIVE))
        index, length, *before = pipe.execute()
        return None if index is None else length - index + sum(before)

    def mend(self, call: Call) -> bool:
        """Queue the call again if no worker has it and its message is nowhere. Returns whether that was so."""
        message = message_of(call, self._attempt(call))
        return bool(self._mend(keys=[keys.request(call.id), list_of(call)], args=[message, _ON_ITS_WAY_MS]))

    def _attempt(self, call: Call) -> int:
        """Return the latest attempt at the call, which its message names; 0 when there was none."""
        return int(cast("bytes | None", self._client.hget(keys.request(call.id), "attempt")) or 0)


def _admission(
    call: Call, gateway_id: str, max_depth: int, once: Once | None, readiness: Readiness
) -> tuple[list[str], list[Any]]:
    """Return the keys and the arguments of lua/admit.lua."""
    record, waiting = keys.request(call.id), list_of(call)
    key = keys.once(_once_id(call.caller, once)) if once else record
    args: list[Any] = [
        max_depth,
        life_s(call),
        message_of(call),
        int(call.queue_wait_s * 1000),
        keys.GATEWAY_TTL_S,
        hashlib.sha256(once.digest.encode()).hexdigest() if once else "",
        once.ttl_s if once else keys.ONCE_TTL_S,
        keys.request(""),
        call.id,
        readiness.value,
    ]
    args += [part for pair in encode_call(call).items() for part in pair]
    return [record, waiting, keys.wake(gateway_id), key, keys.pace(waiting)], args


def _cancel_keys(call: Call) -> list[str]:
    return [keys.request(call.id), keys.stream(call.id), list_of(call)]


def _cancel_args(call: Call, attempt: int) -> list[Any]:
    return [message_of(call, attempt), keys.control(""), keys.CONTROL_TTL_S, call.id, keys.held("")]


def _once_id(caller: str, once: Once) -> str:
    return hashlib.sha256(f"{caller}\0{once.key}".encode()).hexdigest()


def _record(fields: Mapping[bytes, bytes]) -> tuple[Call, RequestFacts]:
    call = decode_call(fields)
    ended, ended_ms = fields.get(b"ended"), fields.get(b"ended_ms")
    tries = int(fields.get(b"tries", b"0"))
    running = RequestStatus.IN_PROGRESS if fields.get(b"replica") else RequestStatus.QUEUED
    facts = RequestFacts(
        id=call.id,
        model=call.model,
        endpoint=call.endpoint,
        stream=call.stream,
        caller=call.caller,
        status=RequestStatus(ended.decode()) if ended else running,
        created_at=int(fields[b"admitted_ms"]) / 1000,
        ended_at=int(ended_ms) / 1000 if ended_ms else None,
        tries=tries,
    )
    return call, facts

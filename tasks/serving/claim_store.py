"""The worker's side of a request's record: make a call ours, note how it goes, give it up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import redis.asyncio

from tasks import keys
from tasks.messages import Call, Event, decode_call, decode_event
from tasks.requests.request_store import list_of, message_of
from tasks.requests.requeue import MAX_MIGRATIONS, Cause, Fate, requeue_args, requeue_keys
from tasks.scripts import digest, script
from tasks.serving.line import Line

_CLAIM_TERMS = (keys.CLAIMED_STREAM_TTL_S, keys.REQUEST_GRACE_S, keys.pace(""), keys.PACE_TTL_S, MAX_MIGRATIONS)


class Verdict(StrEnum):
    """Why a claim was refused; the meanings stand in lua/claim.lua."""

    GONE = "gone"
    HELD = "held"
    EXPIRED = "expired"
    UNREADABLE = "unreadable"  # a newer release has written it: ours, but we do not understand it


class Danger(StrEnum):
    """How far a suspect has come (lua/mark.lua)."""

    RUNS = "1"
    SPOKE = "t"


@dataclass(frozen=True, slots=True)
class Claim:
    """A call that is ours to run."""

    call: Call
    attempt: int
    after: str
    """The last record of the answer that earlier attempts have written; empty when there is none."""
    deaths: int
    """How many workers have died while they ran it, before it gave a token."""
    migrations: int = 0
    """How many have died after that."""
    state: bytes = b""
    """How far earlier attempts have come with an answer that does not stream; empty when there is nothing."""

    @property
    def suspect(self) -> bool:
        return self.deaths > 0 or self.at_last_move

    @property
    def at_last_move(self) -> bool:
        """Whether one more death ends it."""
        return self.migrations >= MAX_MIGRATIONS


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that is not. `attempt` is ours to write under when the verdict is a failure, else 0."""

    verdict: Verdict
    attempt: int = 0
    keep_s: int = 0


class ClaimStore:
    """Coroutines; raise redis.RedisError."""

    def __init__(self, client: redis.asyncio.Redis, line: Line, replica_id: str) -> None:
        self._client = client
        self._line = line
        self._replica_id = replica_id
        self._claim = script("claim")
        self._claim_sha = digest(self._claim)
        self._requeue = client.register_script(script("requeue"))
        self._mark = client.register_script(script("mark"))
        self._drop = client.register_script(script("drop"))
        self._mend = client.register_script(script("mend"))
        self._keep = script("keep")

    async def claim(self, request_id: str, token: str) -> Claim | Refusal:
        """Claim the call and write `Started` to its stream, in one step.

        `token` names the delivery that asks; a claim repeated with it does no harm.
        """
        names = (keys.request(request_id), keys.stream(request_id), keys.held(self._replica_id), keys.REPLICAS)
        args = (self._replica_id, token, request_id, *_CLAIM_TERMS)
        try:
            reply: list[Any] = await self._line.ask("EVALSHA", self._claim_sha, len(names), *names, *args)
        except redis.exceptions.NoScriptError:
            reply = await self._line.ask("EVAL", self._claim, len(names), *names, *args)
        verdict = reply[0].decode()
        if verdict != "claimed":
            return Refusal(Verdict(verdict), *map(int, reply[1:]))
        fields: dict[bytes, bytes] = dict(zip(reply[3::2], reply[4::2], strict=True))
        try:
            call = decode_call(fields)
        except (KeyError, ValueError):
            return Refusal(Verdict.UNREADABLE, int(reply[1]), int(fields.get(b"keep_s", b"0")))
        deaths, migrations = (int(fields.get(name, b"0")) for name in (b"deaths", b"migrations"))
        return Claim(call, int(reply[1]), reply[2].decode(), deaths, migrations, fields.get(b"state", b""))

    async def written(self, request_id: str) -> list[tuple[str, Event | None]]:
        """Return the records of the answer so far, each with its id."""
        reply = cast("list[Any]", await self._client.xrange(keys.stream(request_id)))
        return [(record_id.decode(), decode_event(fields, record_id)) for record_id, fields in reply]

    async def requeue(self, call: Call, attempt: int, cause: Cause, state: bytes = b"") -> Fate:
        """Give the call up: another worker gets it, or it ends with an error.

        `state` is how far an answer has come that does not stream; it is kept in the same step.
        """
        fate = await self._requeue(
            keys=requeue_keys(call, self._replica_id), args=requeue_args(call, self._replica_id, attempt, cause, state)
        )
        return Fate(fate.decode())

    async def keep(self, states: dict[tuple[str, int], bytes]) -> None:
        """Keep how far answers have come that do not stream, by request id and attempt.

        An attempt that is not the latest any more is passed over.
        """
        pipe = self._client.pipeline(transaction=False)
        for (request_id, attempt), state in states.items():
            pipe.eval(self._keep, 1, keys.request(request_id), str(attempt), state)
        await pipe.execute()

    async def mark(self, request_id: str, attempt: int, danger: Danger) -> None:
        """Note how far a suspect has come."""
        await self._mark(keys=[keys.request(request_id)], args=[attempt, danger.value])

    async def drop(self, request_id: str, attempt: int) -> None:
        """Remove a call that nobody waits for."""
        await self._drop(
            keys=[keys.request(request_id), keys.stream(request_id), keys.held(self._replica_id)],
            args=[attempt, request_id],
        )

    async def ours(self, claims: dict[str, int]) -> set[str]:
        """Return those of `claims` (request id → attempt) that Redis still says are ours."""
        pipe = self._client.pipeline(transaction=False)
        for request_id in claims:
            pipe.hmget(keys.request(request_id), "replica", "attempt")
        replies = await pipe.execute()
        mine = self._replica_id.encode()
        return {
            request_id
            for (request_id, attempt), (replica, stands) in zip(claims.items(), replies, strict=True)
            if replica == mine and stands == str(attempt).encode()
        }

    async def mend(self, call: Call) -> None:
        """Queue the call again if Redis has forgotten that we took it, and where its message went."""
        attempt = await self._client.hget(keys.request(call.id), "attempt")
        message = message_of(call, int(attempt or 0))
        await self._mend(keys=[keys.request(call.id), list_of(call)], args=[message, 0])

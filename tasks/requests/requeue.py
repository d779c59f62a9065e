"""What becomes of a call whose worker is lost: the arguments and replies of lua/requeue.lua."""

from __future__ import annotations

from enum import StrEnum

from tasks import keys
from tasks.messages import Call
from tasks.requests.request_store import list_of, message_of

# A call that was running when so many workers died is not tried again.
MAX_DEATHS = 2
# How often an answer may be continued by another worker after a death.
MAX_MIGRATIONS = 2


class Cause(StrEnum):
    """Why a worker no longer has a call."""

    DIED = "died"  # somebody else found it dead
    ENGINE_DIED = "engine_died"  # it says so itself, and ends
    GIVES_UP = "gives_up"  # it must stop, or has lost what it wrote; nothing to hold against the call


class Fate(StrEnum):
    """What was done with the call; the meanings stand in lua/requeue.lua."""

    ALIVE = "alive"
    NOT_HELD = "not_held"
    ENDED = "ended"
    QUEUED = "queued"
    CONDEMNED = "condemned"
    FAILED = "failed"


def requeue_keys(call: Call, replica_id: str) -> list[str]:
    return [
        keys.request(call.id),
        keys.stream(call.id),
        list_of(call),
        keys.held(replica_id),
        keys.REPLICAS,
        keys.dead_letter(call.id),
        keys.DEAD_LETTERS,
    ]


def requeue_args(
    call: Call, replica_id: str, attempt: int, cause: Cause, state: bytes = b""
) -> list[str | bytes | int]:
    """`attempt` is the one that was lost; its successor's message differs from its own.

    `state` is how far it has come with an answer that does not stream; empty: no further than was kept before.
    """
    return [
        replica_id,
        call.id,
        cause.value,
        message_of(call, attempt),
        MAX_DEATHS,
        MAX_MIGRATIONS,
        keys.STREAM_TTL_S,
        keys.DEAD_LETTER_TTL_S,
        str(attempt),
        state,
    ]

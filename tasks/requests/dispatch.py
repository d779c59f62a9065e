"""The gateway's way into the queue: hand in a call, follow its answer, take it back.

Blocking calls throughout; under gevent's monkey-patching each blocks one greenlet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tasks.messages import Call, Endpoint, Event
from tasks.requests.cold_start import NO_TERMS, Standing, Terms
from tasks.requests.inbox import Forward
from workers.placement.actions import Explanation


class RequestStatus(StrEnum):
    """Where a request is in its life."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """A request as it stands in Redis. Times are Unix seconds of Redis' clock."""

    id: str
    model: str
    endpoint: Endpoint
    stream: bool
    caller: str
    status: RequestStatus
    created_at: float
    ended_at: float | None
    tries: int
    """How many workers have taken it."""
    position: int | None = None
    """Its place in the queue, 1 for the next; None when it stands in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What makes a repeated request the same one."""

    key: str
    """The client's Idempotency-Key."""
    digest: str
    """Of everything that must be equal for the key to stand for the same request."""
    ttl_s: int


class Answer(Protocol):
    """The events of one accepted call, in order, as its worker writes them."""

    @property
    def request_id(self) -> str:
        """The request that is followed; an earlier one's where the call was a repetition."""
        ...

    def next(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        """Return the next event, or None when none came within `timeout_s`.

        While it waits, frames may go to `forward` instead, which does not make the wait longer. An empty `Delta`
        says that `forward` could not be rid of them.

        Raises the ServingError that ends the following, but not the call: Redis has
        forgotten a part, or takes no writes. Raises RequestCancelledError once `abandon`
        was called.
        """
        ...

    def standing(self) -> Standing | None:
        """Return how the call stands while it waits for a worker; None otherwise, or if nobody can say. Asks Redis."""
        ...

    def abandon(self) -> None:
        """Make a `next` that waits, and every later one, raise RequestCancelledError at once.

        For the watcher that has seen the client leave; callable from any thread.
        """
        ...

    def close(self) -> None:
        """Stop following. Cancels the call unless its last event was seen, or it is kept for later (`keep_s`).

        Idempotent. The caller must call it whatever happened.
        """
        ...


class Dispatcher(Protocol):
    """Accepts calls for the queue of their model.

    Every method raises ServiceUnavailableError when Redis is out of reach. Those that
    take a request id raise RequestNotFoundError when nothing is kept under it, or it
    belongs to another caller.
    """

    def ready(self, model: str) -> bool:
        """Say whether a replica of the model takes work, as of half a second ago. Asks nobody."""
        ...

    def outlook(self, model: str) -> Explanation | None:
        """Return what the loader says to those who want the model; None when it has said nothing lately."""
        ...

    def submit(self, call: Call, *, max_depth: int, once: Once | None = None, terms: Terms = NO_TERMS) -> Answer:
        """Queue the call durably and follow it.

        An empty `call.gateway` becomes this dispatcher's own, unless the call is kept
        (`keep_s`): then its answer is made whoever waits. With `once`, a call whose key
        the caller has used already is not queued; the earlier one is followed.

        When the model has no ready replica, its load begins, and what becomes of the
        call is a question of `terms`.

        Raises ServerOverloadedError when `max_depth` calls wait already for its model,
        IdempotencyKeyReusedError when the key stands for another digest, PoolExhaustedError
        or ModelLoadFailedError when waiting for the model is in vain, and Deferred when the
        call was not queued because its client does not wait.
        """
        ...

    def find(self, request_id: str, caller: str) -> RequestFacts:
        """Return how a kept request stands."""
        ...

    def follow(self, request_id: str, caller: str) -> Answer:
        """Follow a kept request from its first event on, whether it has ended or not."""
        ...

    def cancel(self, request_id: str, caller: str) -> RequestFacts:
        """Cancel a kept request, and return how it stands then: one that had ended stays as it is."""
        ...

    def healthy(self) -> bool:
        """Say whether Redis answers now (checked at most once a second)."""
        ...

    def close(self) -> None: ...

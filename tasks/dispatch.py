"""The gateway's way into the queue: hand in a call, follow its answer, take it back.

Blocking calls throughout; under gevent's monkey-patching each blocks one greenlet.
"""

from __future__ import annotations

from typing import Protocol

from tasks.messages import Call, Event


class Answer(Protocol):
    """The events of one accepted call, in order, as its worker writes them."""

    def next(self, timeout_s: float) -> Event | None:
        """Return the next event, or None when none came within `timeout_s`.

        Raises ServiceUnavailableError when Redis is lost for longer than the answer
        could survive, and RequestCancelledError once `abandon` was called.
        """
        ...

    def abandon(self) -> None:
        """Make a `next` that waits, and every later one, raise RequestCancelledError at once.

        For the watcher that has seen the client leave; callable from any thread.
        """
        ...

    def close(self) -> None:
        """Stop following, and cancel the call unless its last event was seen.

        Idempotent. The caller must call it whatever happened.
        """
        ...


class Dispatcher(Protocol):
    """Accepts calls for the queue of their model."""

    def submit(self, call: Call, *, max_depth: int) -> Answer:
        """Queue the call durably and follow it. An empty `call.gateway` becomes this dispatcher's own.

        Raises ServerOverloadedError when `max_depth` calls wait already for its model,
        ServiceUnavailableError when Redis is out of reach.
        """
        ...

    def healthy(self) -> bool:
        """Say whether Redis answers now (checked at most once a second)."""
        ...

    def close(self) -> None: ...

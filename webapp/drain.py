"""How a gateway process ends without cutting an answer short.

From `begin` on nothing new is accepted and `/health` says so; what runs may go on.
From `expire` on every answer still open is ended with an error its client can read.
"""

from __future__ import annotations

from collections.abc import Callable

from tasks.errors import ServiceUnavailableError


class Drain:
    """The state of one process. It never goes back."""

    def __init__(self) -> None:
        self.began = False
        self.expired = False
        self._stops: set[Callable[[], None]] = set()

    def begin(self) -> None:
        self.began = True

    def refuse_new(self) -> None:
        """Raise ServiceUnavailableError once it has begun."""
        if self.began:
            raise ServiceUnavailableError("The server is shutting down; repeat the request.")

    def expire(self) -> None:
        """Stop every open answer. `began` is then true as well."""
        self.began = self.expired = True
        for stop in list(self._stops):
            stop()

    def add(self, stop: Callable[[], None]) -> None:
        """Have `stop` called when the time is over; remove it with `discard`."""
        self._stops.add(stop)

    def discard(self, stop: Callable[[], None]) -> None:
        self._stops.discard(stop)

"""What lives on the pool's event loop beside the tasks.

The pool knows neither engines nor Redis keys; it starts one resident, asks it how much
work fits, and tells it when the worker drains. Which resident that is, is named by the
Celery setting `engine_resident` ("module:Class"; the class is called with the pool's
`die`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from workers.host.appetite import Shares

# Why a task's coroutine was cancelled: the message of its CancelledError.
TIME_LIMIT = "time limit"
TERMINATED = "terminated"
STOPPING = "the worker stops"

# Ends the worker, non-zero, with this reason in the log. Callable from any thread.
Die = Callable[[str], None]


class Resident(Protocol):
    """Coroutines run on the pool's loop; plain methods are called from Celery's main thread."""

    @property
    def shares(self) -> Shares:
        """How seats are divided between interactive and bulk work."""
        ...

    async def start(self) -> None:
        """Return when tasks may come. Whatever it raises ends the worker."""
        ...

    def limit(self) -> int:
        """Return the most tasks the worker may hold now, those it holds already included."""
        ...

    def crowded(self) -> bool:
        """Say whether bulk work beyond its guaranteed part is to take no further seat, though some are free."""
        ...

    def room_beside(self, interactive: int) -> int | None:
        """Return how many tasks may run together for so many interactive ones not to be slowed down; None: any."""
        ...

    def consuming(self) -> None:
        """The worker takes tasks from now on (also after every reconnect)."""
        ...

    def draining(self) -> None:
        """The worker takes no more tasks and finishes the ones it has."""
        ...

    async def close(self) -> None:
        """Stop; also after a `start` that failed or was cancelled."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what `celery inspect stats` and Flower show of the engine; JSON values."""
        ...

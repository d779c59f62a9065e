"""What this worker still has to tell Redis about the messages it has taken.

kombu forgets it with the connection. Here it outlives connections, so that neither a
message that was just taken nor an acknowledgement is lost with one. Only the thread of
Celery's hub touches it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """Two columns, both empty while all is well."""

    popped: deque[tuple[str, bytes]] = field(default_factory=deque)
    """Redis list and message: out of the queue, and not yet among the unacknowledged."""
    settled: dict[str, bool] = field(default_factory=dict)
    """Delivery tags that must leave the unacknowledged; True: back to their queue."""
    refused: bool = False
    """Redis answers, and takes no writes: it is full, or read-only."""

    def noted(self) -> None:
        """The oldest popped message is among the unacknowledged now."""
        if self.popped:
            self.popped.popleft()

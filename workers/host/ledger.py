"""What this worker still has to tell Redis about the messages it has taken.

kombu forgets it with the connection. Here it outlives connections, so that neither a
message that was just taken nor an acknowledgement is lost with one. Only the thread of
Celery's hub touches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# What was answered and is still noted, whoever restores this worker's messages finds to be answered.
_MANY = 8


@dataclass(slots=True)
class Ledger:
    """All but `held` is empty while all is well."""

    alone: bool = False
    """Whether nobody else keeps messages under the same keys."""
    held: set[str] = field(default_factory=set)
    """Delivery tags of what Celery was given and has not settled."""
    handed: dict[str, bytes] = field(default_factory=dict)
    """By delivery tag, as they are kept: Celery has them, and Redis has yet to say that they are unacknowledged."""
    settled: dict[str, bool] = field(default_factory=dict)
    """Delivery tags that must leave the unacknowledged; True: back to their queue."""
    unsure: bool = False
    """Messages may be among the unacknowledged that never came here."""
    refused: bool = False
    """Redis answers, and takes no writes: it is full, or read-only."""

    @property
    def done(self) -> list[str]:
        return [tag for tag, requeue in self.settled.items() if not requeue]

    @property
    def rejected(self) -> list[str]:
        """What can be put back: Redis has it among the unacknowledged."""
        return [tag for tag, requeue in self.settled.items() if requeue and tag not in self.handed]

    @property
    def pressing(self) -> bool:
        """Whether Redis must be told now, and not with the next message: somebody waits for one, or there are many."""
        return len(self.settled) >= _MANY or True in self.settled.values()

    @property
    def untold(self) -> bool:
        """Whether there is anything to tell Redis."""
        return bool(self.handed or self.settled)

    @property
    def known(self) -> set[str]:
        return self.held | self.settled.keys()

    def settle(self, tag: str, *, requeue: bool) -> None:
        self.held.discard(tag)
        self.settled[tag] = requeue
        if not requeue:
            self.handed.pop(tag, None)  # noted now, it would stay for ever

    def forget(self, tags: Iterable[str]) -> None:
        """Redis knows of these."""
        for tag in tags:
            self.settled.pop(tag, None)

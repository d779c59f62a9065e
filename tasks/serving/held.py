"""One delivery that an engine worker has taken, and why it may have to let go of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from enum import StrEnum

from tasks.queues import Priority
from tasks.serving.claim_store import Claim
from tasks.serving.outlet import Loss, Outlet
from workers.engine.base import Progress

log = logging.getLogger(__name__)


class Release(StrEnum):
    """What is to be done with a call that is aborted here."""

    GONE = "gone"  # nothing: it was cancelled, or belongs to another worker
    ABANDONED = "abandoned"  # forget it: the gateway that waited for it has died
    TO_QUEUE = "to_queue"  # another worker goes on with it, if it is still ours to give


@dataclass(slots=True)
class Held:
    """The same call may be delivered twice; only one delivery gets a claim."""

    request_id: str
    task: asyncio.Task[object]
    claim: Claim | None = None
    released: Release | None = None
    outlet: Outlet | None = None
    progress: Progress = field(default_factory=Progress)
    """How far the engine is with a call that does not stream."""

    @property
    def bulk(self) -> bool:
        return self.claim is not None and self.claim.call.priority is Priority.BULK

    @property
    def can_move(self) -> bool:
        """Whether another worker can go on with it, and it is not about to end."""
        if self.claim is None or self.outlet is None or self.released is not None:
            return False
        cut = self.claim.call.stream and self.outlet.trail_ended
        return not cut and not self.outlet.ending

    @property
    def gateway(self) -> str:
        return self.claim.call.gateway if self.claim else ""

    @property
    def attempt(self) -> int:
        return self.claim.attempt if self.claim else 0

    def release(self, how: Release) -> None:
        """Abort. The first reason stands."""
        if self.released is None:
            self.released = how
            self.task.cancel()

    def lose(self, loss: Loss) -> None:
        """Abort because its stream cannot be written any further. Whose call it is now, Redis must say."""
        log.info("stream lost", extra={"event": "stream_lost", "request": self.request_id, "loss": loss.value})
        self.release(Release.TO_QUEUE)

"""One delivery that an engine worker has taken, and why it may have to let go of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum

from tasks.serving.claim_store import Claim
from tasks.serving.outlet import Loss

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

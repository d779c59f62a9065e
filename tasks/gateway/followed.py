"""An answer that somebody waits for in this gateway."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.messages import Call
from tasks.requests.cold_start import NO_TERMS, Terms
from tasks.requests.inbox import Inbox

# From the latest record to the first look, and from one look to the next.
SILENT_S = 3.0
LOOK_AGAIN_S = 5.0
LONGEST_APART_S = 60.0


@dataclass(eq=False, slots=True, kw_only=True)
class Followed:
    """Times are those of the monotonic clock."""

    inbox: Inbox
    call: Call
    """Its model changes when another build of the same alias takes it over."""
    again: bool
    """Whether it may be asked for again from here when Redis has forgotten it."""
    terms: Terms = NO_TERMS
    looked_at: float = float("-inf")
    unclaimed_looks: int = 0

    def due(self, now: float) -> bool:
        """Say whether it was silent for long; what waits in a queue is looked at ever more seldom."""
        apart_s = min(LOOK_AGAIN_S * max(1, self.unclaimed_looks), LONGEST_APART_S)
        return now - self.inbox.heard_at > SILENT_S and now - self.looked_at > apart_s

    @property
    def waits(self) -> bool:
        """Whether no worker has it, for all that is known here."""
        return not self.inbox.ended and (self.inbox.last is None or self.unclaimed_looks > 0)

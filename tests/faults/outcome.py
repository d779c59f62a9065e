"""How one request went, as its client saw it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The five ways a request can end for its client."""

    CLEAN = "clean"  # the whole answer, word for word
    FAILED = "failed"  # a JSON error, or an error event after a part of the right answer
    CUT = "cut"  # the connection broke, so the client knows; only a dying gateway may do this
    CANCELLED = "cancelled"  # the client left
    DIRTY = "dirty"  # anything else: a hang, a wrong word, an end that only looks like one


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Times are of the monotonic clock."""

    model: str
    stream: bool
    began: float
    ended: float = 0.0
    kind: Kind = Kind.DIRTY
    why: str = ""
    status: int = 0
    code: str = ""
    should_retry: str = ""
    retry_after: str = ""
    request_id: str = ""
    text: str = ""
    gap_s: float = 0.0
    """The longest silence between two frames of the answer; comments do not count."""
    first_s: float = 0.0
    """From the request to the first frame, or to the status of an answer in one piece."""
    last_event_id: str = ""
    accepted: bool = False
    """Whether the status line said that there would be an answer."""
    resumable: bool = False
    reconnects: int = 0
    tries: int = 0
    migrations: int = 0

    @property
    def took_s(self) -> float:
        return self.ended - self.began

"""A batch as the API describes it, and how fast it goes. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tasks.bulk.records import ENDED, BatchStatus

_WINDOW_S = 30.0
_AT_LEAST_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """One look at a batch. Times are Unix seconds of the gateway's clock; None: that has not happened."""

    id: str
    status: BatchStatus
    endpoint: str | None
    """None: each line says its own."""
    total: int
    done: int
    failed: int
    tokens_read: int
    tokens_written: int
    created_at: int
    began_at: int | None
    expires_at: int | None
    ended_at: int | None
    output_file: str | None
    error_file: str | None
    flaws: tuple[str, ...]
    """Why it was not begun."""
    document: dict[str, Any] = field(repr=False)
    """What the API answered, for who wants all of it."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def finished(self) -> int:
        """Lines that are over, well or not."""
        return self.done + self.failed

    @property
    def tokens(self) -> int:
        """Tokens that were made; of embeddings, which make none, those that were read."""
        return self.tokens_written or self.tokens_read


def facts_of(document: dict[str, Any]) -> BatchFacts:
    """Read the API's batch object. Raises KeyError, TypeError or ValueError for what is none."""
    counts = document["request_counts"] or {}
    usage = document.get("usage") or {}
    status = BatchStatus(document["status"])
    errors = (document.get("errors") or {}).get("data") or ()
    return BatchFacts(
        id=str(document["id"]),
        status=status,
        endpoint=document["endpoint"],
        total=int(counts.get("total", 0)),
        done=int(counts.get("completed", 0)),
        failed=int(counts.get("failed", 0)),
        tokens_read=int(usage.get("input_tokens", 0)),
        tokens_written=int(usage.get("output_tokens", 0)),
        created_at=int(document["created_at"]),
        began_at=document.get("in_progress_at"),
        expires_at=document.get("expires_at"),
        ended_at=document.get(f"{status}_at") if status in ENDED else None,
        output_file=document.get("output_file_id"),
        error_file=document.get("error_file_id"),
        flaws=tuple(_flaw(error) for error in errors),
        document=document,
    )


def _flaw(error: dict[str, Any]) -> str:
    where = "" if error.get("line") is None else f"line {error['line']}: "
    return f"{where}{error.get('message')} ({error.get('code')})"


def time_left_s(facts: BatchFacts, now: float) -> float | None:
    """Say how long the rest takes, at the pace since it began; None when nothing tells."""
    if facts.ended or facts.began_at is None or not facts.finished or now <= facts.began_at:
        return None
    return (now - facts.began_at) / facts.finished * (facts.total - facts.finished)


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the last half minute."""

    lines_per_s: float
    tokens_per_s: float


class Pace:
    """How fast a batch went lately, by the looks at it."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()

    def look(self, facts: BatchFacts, now: float) -> Rates | None:
        """Take one more look into account; None while there is nothing to go by."""
        self._looks.append((now, facts.finished, facts.tokens))
        while len(self._looks) > 2 and self._looks[1][0] <= now - _WINDOW_S:
            self._looks.popleft()
        began, lines, tokens = self._looks[0]
        if now - began < _AT_LEAST_S or facts.finished == lines:
            return None
        return Rates((facts.finished - lines) / (now - began), (facts.tokens - tokens) / (now - began))

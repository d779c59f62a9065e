"""The events of one stream for one waiter: in order, without a gap, without a repetition.

Several may follow the same stream from different places, so each has a position of its own.
"""

from __future__ import annotations

import queue
import time

from tasks.messages import Delta, Done, Event, Failed, Started, parse_id

UNREADABLE = Failed("internal_error", "A part of the answer could not be read; repeat the request.")
LOST = Failed("service_unavailable", "The queue was restarted and lost this request; repeat it.")


class Inbox:
    """Filled by the gateway's one reader; emptied by one waiter."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.abandoned = False
        self.ended = False
        """Whether the last event was put in."""
        self.cut = False
        """Whether it was ended from here; the call itself may still wait or run."""
        self.relayed = ""
        """The id of the latest `Delta`; empty while nothing of the answer was handed out."""
        self.heard_at = time.monotonic()
        self._last: tuple[int, int] | None = None
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    @property
    def last(self) -> tuple[int, int] | None:
        """Where the waiter stands: attempt and place of the last record taken in."""
        return self._last

    def take(self, record_id: str, event: Event | None) -> None:
        """Take in one record of the stream; those known already are passed over."""
        place = parse_id(record_id)
        if self.ended or (self._last is not None and place <= self._last):
            return
        if not follows(self._last, place) or (isinstance(event, Started) and event.after != self.relayed):
            self.lose()
            return
        self._last = place
        self.heard_at = time.monotonic()
        if event is None:
            return
        if isinstance(event, Delta):
            self.relayed = record_id
        self.put(event)

    def put(self, event: Event) -> None:
        """Hand an event to the waiter; nothing follows a last one."""
        if not self.ended:
            self.ended = isinstance(event, Done | Failed)
            self._events.put(event)

    def lose(self) -> None:
        """End the answer: something of it is gone for good."""
        self.fail(LOST)

    def fail(self, why: Failed) -> None:
        """End the answer from here, whatever its worker may still be at."""
        self.cut = not self.ended
        self.put(why)

    def restart(self) -> None:
        """Begin at the beginning of a new stream. Only while nothing was relayed."""
        self._last = None
        self.heard_at = time.monotonic()

    def abandon(self) -> None:
        self.abandoned = True
        self._events.put(None)

    def get(self, timeout_s: float) -> Event | None:
        """Return the next event, or None after `timeout_s` or once abandoned."""
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None


def follows(last: tuple[int, int] | None, place: tuple[int, int]) -> bool:
    """Say whether nothing can be missing between two records of a stream; `last` is None before the first."""
    attempt, seq = place
    return seq == 0 or (attempt, seq - 1) == last

"""The events of one stream for one waiter: in order, without a gap, without a repetition.

Several may follow the same stream from different places, so each has a position of its own.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Iterable

from tasks.messages import Delta, Done, Event, Failed, Started, parse_id

Forward = Callable[[bytes], bool]
"""Takes frames for a waiter that would only pass them on. False: it has them, and the waiter is to look after the rest.
Runs on the reader's thread, so it may not wait.
"""

UNREADABLE = Failed("internal_error", "A part of the answer could not be read; repeat the request.")
LOST = Failed("service_unavailable", "The queue was restarted and lost this request; repeat it.")
# A wait that is to end sooner has a timer of its own; the wait clock is not that exact.
_SHORT_S = 1.0


class Inbox:
    """Filled by the gateway's one reader; emptied by one waiter, whose longer waits a `WaitClock` ends."""

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
        self._until = math.inf
        self._forward: Forward | None = None

    @property
    def last(self) -> tuple[int, int] | None:
        """Where the waiter stands: attempt and place of the last record taken in."""
        return self._last

    def take(self, records: Iterable[tuple[str, Event | None]]) -> None:
        """Take in records of the stream, each with its id; those known already are passed over."""
        fresh: list[Event] = []
        for record_id, event in records:
            place = parse_id(record_id)
            if self.ended or (self._last is not None and place <= self._last):
                continue
            if not follows(self._last, place) or (isinstance(event, Started) and event.after != self.relayed):
                self._hand_over(fresh)
                self.lose()
                return
            self._last = place
            if isinstance(event, Delta):
                self.relayed = record_id
            if event is not None:
                fresh.append(event)
        self.heard_at = time.monotonic()
        self._hand_over(fresh)

    def _hand_over(self, events: list[Event]) -> None:
        forward = self._forward
        if forward is not None and events and self._events.empty():
            frames = [event.frames for event in events if isinstance(event, Delta)]
            # The last frames leave together with the end, and a `Started` is for the waiter.
            if len(frames) == len(events):
                if forward(frames[0] if len(frames) == 1 else b"".join(frames)):
                    return
                self._forward = None
                events = [Delta(b"")]
        for event in events:
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

    def overdue(self, now: float) -> None:
        if now >= self._until:
            self._until = math.inf
            self._events.put(None)

    def get(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        """Return the next event, or None after `timeout_s` or once abandoned.

        With `forward`, a long wait goes on while deltas come: it gets their frames.
        """
        if timeout_s < _SHORT_S:
            return self._get_soon(timeout_s)
        until = self._until = time.monotonic() + timeout_s
        if self._events.empty():
            self._forward = forward
        event = self._events.get()
        while event is None and not self.abandoned and time.monotonic() < until:
            # The clock's word for an earlier wait, which had ended by itself.
            event = self._events.get()
        self._until, self._forward = math.inf, None
        return event

    def _get_soon(self, timeout_s: float) -> Event | None:
        if timeout_s <= 0 and self._events.empty():
            return None
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None


def follows(last: tuple[int, int] | None, place: tuple[int, int]) -> bool:
    """Say whether nothing can be missing between two records of a stream; `last` is None before the first."""
    attempt, seq = place
    return seq == 0 or (attempt, seq - 1) == last

"""Event ids, and how an answer goes on behind the event that its client saw last.

The id `<attempt>-<seq>-<k>` is frame k, from 0, of the record `<attempt>-<seq>` of the
request's stream, so it is the same through every gateway. The last event of an answer,
`[DONE]` or the error it ended with, has the id `end`. An error that ended only this
connection has none: who reconnects goes on behind the last token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.errors import InvalidRequestError
from tasks.messages import Delta, Done, Event
from tasks.requests.cold_start import Standing
from tasks.requests.dispatch import Answer
from tasks.requests.inbox import Forward
from webapp import sse

_POSITION = re.compile(r"([0-9]{1,19})-([0-9]{1,19})-([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Position:
    """One frame of an answer."""

    record: tuple[int, int]
    frame: int


def position(event_id: str) -> Position:
    """Read the id of an event other than the last. Raises InvalidRequestError when it is none of ours."""
    found = _POSITION.fullmatch(event_id)
    if found is None:
        raise InvalidRequestError("Last-Event-ID must be the id of an event of this answer, as it was received.")
    attempt, seq, frame = map(int, found.groups())
    return Position((attempt, seq), frame)


class NumberedAnswer:
    """An answer whose events have ids; satisfies `tasks.requests.dispatch.Answer`.

    With `after` it begins behind that event. An answer that is no stream becomes a single event.
    """

    def __init__(self, answer: Answer, *, is_stream: bool, after: Position | None = None) -> None:
        self._answer = answer
        self._is_stream = is_stream
        self._after = after
        self._done: Done | None = None

    @property
    def request_id(self) -> str:
        return self._answer.request_id

    def next(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        """Return the next event, with ids in its frames; none goes to `forward`.

        Raises InvalidRequestError, too, when the answer has no event such as `after`.
        """
        if self._done is not None:
            return self._done
        while True:
            event = self._answer.next(timeout_s)
            match event:
                case Delta():
                    if frames := self._numbered(event):
                        return Delta(frames, event.trail, event.id)
                case Done(body=body):
                    if self._after is not None:
                        raise _unknown_event()
                    if self._is_stream:
                        return event
                    self._done = event
                    return Delta(sse.END_ID + sse.frame(body.replace(b"\n", b" ")))
                case _:
                    return event

    def standing(self) -> Standing | None:
        return self._answer.standing()

    def abandon(self) -> None:
        self._answer.abandon()

    def close(self) -> None:
        self._answer.close()

    def _numbered(self, delta: Delta) -> bytes:
        """Return what the client has not seen of `delta`, each frame behind its id."""
        frames = delta.frames.split(b"\n\n")[:-1]
        first = self._first_unseen(delta.id, len(frames))
        record = delta.id.encode()
        return b"".join(b"id: %b-%d\n%b\n\n" % (record, k, frames[k]) for k in range(first, len(frames)))

    def _first_unseen(self, record_id: str, frames: int) -> int:
        if self._after is None:
            return 0
        attempt, _, seq = record_id.partition("-")
        record = (int(attempt), int(seq))
        if record < self._after.record:
            return frames
        if record > self._after.record or self._after.frame >= frames:
            raise _unknown_event()
        first, self._after = self._after.frame + 1, None
        return first


def _unknown_event() -> InvalidRequestError:
    return InvalidRequestError(
        "This answer has no event with the id in Last-Event-ID; leave it out to read the answer from its beginning."
    )

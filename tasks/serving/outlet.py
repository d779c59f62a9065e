"""What one attempt at one request has still to write to its stream. No Redis: `tasks.serving.streams` writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple

import hiredis

from tasks import keys
from tasks.errors import RequestCancelledError
from tasks.messages import Delta, Done, Event, Failed, encode_event, parse_id
from tasks.requests.dispatch import RequestStatus


class Loss(StrEnum):
    """Why an attempt cannot be written any further."""

    GONE = "gone"  # cancelled, or given to another worker: nobody reads it
    BEHIND = "behind"  # Redis was restarted from a state before some of our records
    UNREACHABLE = "unreachable"  # Redis has been away for too long


# Nearly all that a worker writes is such a record, and to pack it anew costs it three times as much.
_HEAD = b"*10\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n"
_DELTA = b"%b$%d\r\n%b\r\n$1\r\nk\r\n$5\r\ndelta\r\n$1\r\nf\r\n$%d\r\n%b\r\n$1\r\nt\r\n$%d\r\n%b\r\n"
_pack: Any = hiredis.pack_command  # whose types know only one argument


class Record(NamedTuple):
    """One record, numbered, and the packed command that writes it."""

    seq: int
    command: bytes


@dataclass(slots=True, eq=False)
class Outlet:
    """The stream of one attempt. `lost` is called once, on the loop, when it cannot be written any further."""

    request_id: str
    attempt: int
    lost: Callable[[Loss], None]
    keep_s: int = 0
    """How long record and stream stand after the end; 0: only as long as a reader needs."""
    seq: int = 0
    frames: list[bytes] = field(default_factory=list)
    trails: list[bytes] = field(default_factory=list)
    trail_ended: bool = False
    """Whether the engine has said that nobody can go on from here."""
    unsent: list[Record] = field(default_factory=list)
    end: Done | Failed | None = None
    status: RequestStatus | None = None
    """How the request ends, once its last record is among those to be written."""
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    _head: bytes = field(init=False)

    def __post_init__(self) -> None:
        key = keys.stream(self.request_id).encode()
        self._head = _HEAD % (len(key), key)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to write: it has ended, or was lost."""
        return self.closed or self.sent.is_set()

    @property
    def ending(self) -> bool:
        """Whether its last record was handed in."""
        return self.closed or self.end is not None or self.status is not None

    def add(self, frames: bytes, trail: bytes | None) -> None:
        """Take in one piece of the answer."""
        self.frames.append(frames)
        if trail is None:
            self.trail_ended = True
        else:
            self.trails.append(trail)

    def take(self) -> list[Record]:
        """Return what is to be written now, in order: first what may not have arrived last time."""
        if self.frames:
            frames = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
            self._number(Delta(frames, None if self.trail_ended else b"\n".join(self.trails)))
            self.frames.clear()
            self.trails.clear()
        if self.end is not None:
            self._number(self.end)
            self.status, self.end = _status(self.end), None
        return self.unsent

    def written(self) -> None:
        """Everything `take` returned has arrived."""
        self.unsent.clear()
        if self.status is not None:
            self.sent.set()

    def compare(self, newest: str | None) -> None:
        """Drop what has arrived already: `newest` is the id of the stream's last record, None when it has none."""
        if newest is None:
            self.lose(Loss.GONE)
            return
        attempt, seq = parse_id(newest)
        first = self.unsent[0].seq if self.unsent else self.seq + 1
        if attempt > self.attempt:
            self.lose(Loss.GONE)
        elif attempt < self.attempt or seq < first - 1:
            self.lose(Loss.BEHIND)
        else:
            self.unsent = [record for record in self.unsent if record.seq > seq]

    def lose(self, loss: Loss) -> None:
        """Write nothing more, and say why."""
        if not self.closed:
            self.closed = True
            self.frames.clear()
            self.unsent.clear()
            self.end = None
            self.sent.set()
            self.lost(loss)

    def _number(self, event: Event) -> None:
        self.seq += 1
        self.unsent.append(Record(self.seq, self._packed(b"%d-%d" % (self.attempt, self.seq), event)))

    def _packed(self, record_id: bytes, event: Event) -> bytes:
        """Return the command that appends the event, unless the stream is gone."""
        if isinstance(event, Delta) and event.trail is not None:
            frames, trail = event.frames, event.trail
            return _DELTA % (self._head, len(record_id), record_id, len(frames), frames, len(trail), trail)
        fields = chain.from_iterable(encode_event(event).items())
        packed: bytes = _pack(("XADD", keys.stream(self.request_id), "NOMKSTREAM", record_id, *fields))
        return packed


def _status(end: Done | Failed) -> RequestStatus:
    if isinstance(end, Done):
        return RequestStatus.COMPLETED
    return RequestStatus.CANCELLED if end.code == RequestCancelledError.code else RequestStatus.FAILED

"""How far an answer has come, read from its stream by the worker that is to go on with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.messages import Delta, Event, Started, parse_id
from workers.engine.base import Resume


class BrokenAnswerError(Exception):
    """Something of the answer so far is missing, or its engine has said that nobody can go on."""


def resume_of(records: Iterable[tuple[str, Event | None]], after: str) -> Resume:
    """Return what an engine needs to go on behind the record `after`.

    `records` are those of the stream with their ids, in order. Raises BrokenAnswerError.
    """
    frames, trails, first = 0, list[bytes](), b""
    sent, last = "", (0, 0)
    for record_id, event in records:
        attempt, seq = parse_id(record_id)
        if seq and (attempt, seq - 1) != last:
            raise BrokenAnswerError(f"{record_id} does not follow {last[0]}-{last[1]}")
        last = attempt, seq
        match event:
            case Started():
                if event.after != sent:
                    raise BrokenAnswerError(f"attempt {attempt} went on from {event.after!r}, not from {sent!r}")
            case Delta(data, trail):
                if trail is None:
                    raise BrokenAnswerError("the engine cannot go on from here")
                first = first or data[: data.index(b"\n\n") + 2]
                frames += data.count(b"\n\n")
                trails += trail.split(b"\n")
                sent = record_id
            case _:
                pass
    if sent != after or not first:
        raise BrokenAnswerError(f"the answer stands at {sent!r}, not at {after!r}")
    return Resume(frames=frames, first=first, trail=tuple(trails))

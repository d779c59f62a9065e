"""Event-stream bytes.

Only what every client can read: one `data:` line an event, and comments as keep-alives.
Never `retry:` or `event:`, never a line break inside the JSON, and `id:` only for those
who asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
END = "end"
"""The id of an answer's last event."""
END_ID = b"id: end\n"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a stream says besides its frames."""

    ping: bytes
    end_id: bytes
    """Stands in front of the last event."""


PLAIN = Dialect(ping=PING, end_id=b"")

# openai-python takes the blank line behind a comment for an event once it has seen an
# `id:`. A comment is one line; it needs no blank one.
NUMBERED = Dialect(ping=b": ping\n", end_id=END_ID)


def frame(payload: bytes) -> bytes:
    """Return one event. `payload` is JSON without line breaks."""
    return b"data: " + payload + b"\n\n"

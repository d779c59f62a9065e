"""Event-stream bytes.

Only what every client can read: one `data:` line an event, and comments as keep-alives.
Never `retry:` or `event:`, never a line break inside the JSON, and `id:` only for those
who asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

DONE = b"data: [DONE]\n\n"
END = "end"
"""The id of an answer's last event."""
END_ID = b"id: end\n"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a stream says besides its frames."""

    after_comment: bytes
    end_id: bytes
    """Stands in front of the last event."""

    def comment(self, text: str) -> bytes:
        """Return what no client takes for an event. Line breaks in `text` become spaces."""
        return b": " + " ".join(text.split()).encode() + self.after_comment

    @property
    def ping(self) -> bytes:
        return self.comment("ping")


PLAIN = Dialect(after_comment=b"\n\n", end_id=b"")
PING = PLAIN.ping

# openai-python takes the blank line behind a comment for an event once it has seen an
# `id:`. A comment is one line; it needs no blank one.
NUMBERED = Dialect(after_comment=b"\n", end_id=END_ID)


def frame(payload: bytes) -> bytes:
    """Return one event. `payload` is JSON without line breaks."""
    return b"data: " + payload + b"\n\n"

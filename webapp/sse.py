"""Event-stream bytes.

Only what every client can read: one `data:` line an event, and comments as keep-alives.
Never `id:`, `retry:` or `event:` (openai-python takes the next comment for an event
after any of them), and never a line break inside the JSON.
"""

from __future__ import annotations

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


def frame(payload: bytes) -> bytes:
    """Return one event. `payload` is JSON without line breaks."""
    return b"data: " + payload + b"\n\n"

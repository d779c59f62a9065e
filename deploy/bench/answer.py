"""One response as it comes: what a load has to know of it, found without parsing a frame's JSON.

A key of a frame cannot be mistaken for text: within a JSON string each quote has a
backslash before it, and each line end is escaped.
"""

from __future__ import annotations

import json
import re

from deploy.bench.framing import Body, MalformedError, body_of

# The beginning of what a model says: the value of one of these keys, unless it is empty.
CHAT = re.compile(rb'"(?:content|reasoning|reasoning_content)":[ ]?"(?!")')
COMPLETION = re.compile(rb'"text":[ ]?"(?!")')
_ERROR = re.compile(rb'^.*"error":[ ]?[{"].*$', re.MULTILINE)
_TOKENS = re.compile(rb'"completion_tokens":[ ]?(\d+)')
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*close", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})")
_MAX_HEAD = 1 << 16
_OK = 200


class Events:
    """The events of a stream. `failure` is the last that told of an error."""

    __slots__ = ("_content", "_rest", "completion_tokens", "done", "failure")

    def __init__(self, content: re.Pattern[bytes]) -> None:
        self._content = content
        self._rest = b""
        self.done = False
        self.failure = b""
        self.completion_tokens: int | None = None

    def feed(self, body: bytes) -> int:
        """Return how many frames with content have become whole."""
        if self._rest:
            body = self._rest + body
        end = body.rfind(b"\n") + 1
        self._rest = body[end:]
        if self._rest:
            body = body[:end]
        frames = len(self._content.findall(body))
        # Mostly each line has content and a blank one behind it, and then there is nothing else to look for.
        if 2 * frames != body.count(b"\n"):
            self._look(body)
        return frames

    def _look(self, body: bytes) -> None:
        if (at := body.rfind(b"[DONE]")) >= 0:
            # A model may say so too, hence the whole line; to look at every line would take as long as all else.
            line = body[body.rfind(b"\n", 0, at) + 1 : at]
            self.done = self.done or line.rstrip() == b"data:"
        if b'"error":' in body and (error := _ERROR.search(body)):
            self.failure = error[0]
        if b'"completion_tokens":' in body:
            self.completion_tokens = int(_TOKENS.findall(body)[-1])


class Answer:
    """What one request is answered with. `content` tells frames with content, None what is no stream."""

    __slots__ = ("_body", "_events", "_head", "_kept", "complete", "frames", "keep_alive", "status")

    def __init__(self, content: re.Pattern[bytes] | None) -> None:
        self.status = 0
        self.complete = False
        self.keep_alive = True
        self.frames = 0
        """With content."""
        self._events = Events(content) if content else None
        self._head = b""
        self._body: Body | None = None
        self._kept: list[bytes] = []

    def feed(self, data: bytes) -> int:
        """Take what has come; return how many frames with content it completes. Raises MalformedError."""
        body = self._body
        if body is None:
            data = self._head + data
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(data) > _MAX_HEAD:
                    raise MalformedError("a head without end")
                self._head = data
                return 0
            body = self._body = self._begin(data[: end - 2])
            data = data[end:]
        piece = body.feed(data)
        self.complete = body.complete
        if self._events is None:
            self._kept.append(piece)
            return 0
        frames = self._events.feed(piece)
        self.frames += frames
        return frames

    def close(self) -> None:
        """The connection has ended, which completes a body of no stated length."""
        self.complete = self.complete or (self._body is not None and self._body.ends_with_connection)

    @property
    def completion_tokens(self) -> int | None:
        """As the server counts them; None where it does not say, or not yet."""
        if self._events is not None:
            return self._events.completion_tokens
        found = _TOKENS.findall(b"".join(self._kept))
        return int(found[-1]) if found else None

    def error(self) -> str | None:
        """Say of a complete answer what kind of error it is, if it is one."""
        if self.status != _OK:
            code = _code(b"".join(self._kept))
            return f"{self.status} {code}" if code else str(self.status)
        if self._events is None:
            return None
        if self._events.failure:
            return f"error in a stream: {_code(self._events.failure.partition(b':')[2]) or 'without a code'}"
        return None if self._events.done else "stream ended without [DONE]"

    def _begin(self, head: bytes) -> Body:
        line = _STATUS.match(head)
        if not line:
            raise MalformedError("no status line")
        self.status = int(line[2])
        self.keep_alive = line[1] == b"1" and not _CLOSE.search(head)
        if self.status != _OK:
            self._events = None
        return body_of(head)


def _code(document: bytes) -> str:
    """Return what an error calls itself, "" where it does not."""
    try:
        error = json.loads(document)["error"]
        found = error if isinstance(error, str) else error.get("code") or error.get("type") or error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return str(found or "")[:80]

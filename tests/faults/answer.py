"""Reads one answer as strictly as it can be read: whatever is not exactly right makes it dirty.

A stream may be read in several pieces (a reconnect), so the state is kept outside the
connection it comes from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


class DirtyError(Exception):
    """The answer is wrong in a way that its client could not know."""


class ErrorEvent(Exception):  # noqa: N818 - what OpenAI's clients call it too
    """The stream ended with an error that its client can read."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["code"])
        self.code = str(error["code"])


@dataclass(slots=True)
class StreamedAnswer:
    """The events of one streamed chat completion with one choice."""

    expected: str
    text: str = ""
    last_event_id: str = ""
    done: bool = False
    frames: int = 0
    _buffer: bytes = b""
    _roles: int = 0
    _finish: str | None = None
    _ids: set[str] = field(default_factory=set)

    def feed(self, data: bytes) -> int:
        """Take bytes as they came; return how many frames were complete in them.

        Raises DirtyError and ErrorEvent.
        """
        *blocks, self._buffer = (self._buffer + data).split(b"\n\n")
        before = self.frames
        for block in blocks:
            self._block(block.decode())
        return self.frames - before

    def end(self) -> None:
        """The connection was closed in order. Raises DirtyError when the answer was not complete."""
        if self._buffer:
            raise DirtyError(f"bytes after the last event: {self._buffer[:80]!r}")
        if not self.done:
            raise DirtyError("the stream ended without [DONE] and without an error")

    def reconnect(self) -> None:
        """Forget what a broken connection left half-sent."""
        self._buffer = b""

    def _block(self, block: str) -> None:
        event_id = ""
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            match name:
                case "":  # a comment, which is how a silent stream says that it lives
                    continue
                case "id":
                    event_id = value
                case "data":
                    self._data(value)
                case _:
                    raise DirtyError(f"a line that is no SSE: {line[:80]!r}")
        # Only now: an event counts as received once its last line was read.
        self.last_event_id = event_id or self.last_event_id

    def _data(self, value: str) -> None:
        if self.done:
            raise DirtyError("an event after [DONE]")
        if value == "[DONE]":
            if self._finish is None:
                raise DirtyError("[DONE] without a finish reason")
            if self.text != self.expected:
                raise DirtyError(difference(self.text, self.expected))
            self.done = True
            return
        chunk = json.loads(value)
        if "error" in chunk:
            raise ErrorEvent(checked_error(chunk))
        self.frames += 1
        self._ids.add(chunk["id"])
        if len(self._ids) > 1:
            raise DirtyError("the answer changed its id")
        for choice in chunk["choices"]:
            self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        if self._finish is not None:
            raise DirtyError("a choice after its finish reason")
        delta = choice["delta"]
        if "role" in delta:
            self._roles += 1
            if self._roles > 1:
                raise DirtyError("the role was sent twice")
        content = delta.get("content") or ""
        if content and not self._roles:
            raise DirtyError("text before the role")
        self.text += content
        if not self.expected.startswith(self.text):
            raise DirtyError(difference(self.text, self.expected))
        self._finish = choice["finish_reason"]


def whole(body: bytes, expected: str) -> str:
    """Return the text of an answer in one piece. Raises DirtyError."""
    answer = json.loads(body)
    (choice,) = answer["choices"]
    text = str(choice["message"]["content"])
    if text != expected:
        raise DirtyError(difference(text, expected))
    if not choice["finish_reason"]:
        raise DirtyError("no finish reason")
    return text


def checked_error(body: dict[str, Any]) -> dict[str, Any]:
    """Return the error. Raises DirtyError when it has not the shape that OpenAI's clients read."""
    error = body.get("error")
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        raise DirtyError(f"an error of another shape: {str(body)[:120]}")
    return error


def difference(text: str, expected: str) -> str:
    """Say where two texts part."""
    at = next(
        (i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected))
    )
    return f"wrong text at {at}: {text[max(0, at - 12) : at + 24]!r} instead of {expected[max(0, at - 12) : at + 24]!r}"

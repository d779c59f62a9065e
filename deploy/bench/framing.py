"""The body of an HTTP/1.1 response, cut out of the bytes of its connection in the three ways that there are."""

from __future__ import annotations

import re
from typing import Protocol

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)


class MalformedError(ValueError):
    """What came is not HTTP/1.1."""


class Body(Protocol):
    complete: bool

    @property
    def ends_with_connection(self) -> bool:
        """Say whether the end of the connection completes it."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Return what of `data` belongs to the body. Raises MalformedError."""
        ...


def body_of(head: bytes) -> Body:
    """Return what reads the body that a response's `head` announces."""
    if _CHUNKED.search(head):
        return Chunked()
    length = _LENGTH.search(head)
    return Sized(int(length[1])) if length else UntilClose()


class Chunked:
    """`_left`: how much of a chunk is missing, its line end included. `_rest`: the beginning of a line."""

    __slots__ = ("_left", "_rest", "_trailer", "complete")
    ends_with_connection = False

    def __init__(self) -> None:
        self.complete = False
        self._left = 0
        self._rest = b""
        self._trailer = False

    def feed(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        pieces = []
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                at = self._line(data, at)
                continue
            stop = at + self._left
            if self._left > 2:
                pieces.append(data[at : stop - 2])
            self._left = max(0, stop - end)
            at = stop
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _line(self, data: bytes, at: int) -> int:
        """Take the line that begins at `at`: a chunk's size, or one of the trailer. Return where it ends."""
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            self._rest = data[at:]
            return len(data)
        if not self._trailer:
            size = _size(data[at:line_end])
            self._trailer = not size
            self._left = size + 2 if size else 0
        elif line_end == at:
            self.complete = True
            return len(data)
        return line_end + 2


class Sized:
    __slots__ = ("_left", "complete")
    ends_with_connection = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.complete = not length

    def feed(self, data: bytes) -> bytes:
        data = data[: self._left]
        self._left -= len(data)
        self.complete = not self._left
        return data


class UntilClose:
    __slots__ = ("complete",)
    ends_with_connection = True

    def __init__(self) -> None:
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        return data


def _size(line: bytes) -> int:
    try:
        return int(line if line.isalnum() else line.partition(b";")[0], 16)
    except ValueError:
        raise MalformedError("no size of a chunk") from None

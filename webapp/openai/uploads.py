"""A file as a form sends it (multipart/form-data), taken in piece by piece.

What the client says of the file is its text: its name leads nowhere on our disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from tasks.errors import (
    InvalidRequestError,
    RequestTooLargeError,
    UnknownParameterError,
    UnsupportedMediaTypeError,
    UnsupportedParameterError,
)

OVERHEAD_BYTES = 64 * 1024
"""How much longer than its file a form may be."""
LEAST_S, MOST_S = 3600, 30 * 24 * 3600
"""How long a file may be kept that is to be deleted by itself; the bounds are OpenAI's."""

_FILE = "file"
_PURPOSE = "purpose"
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = (_PURPOSE, _ANCHOR, _SECONDS)
_LONGEST_FIELD = 64
_LONGEST_NAME = 255
_LONGEST_BOUNDARY = 70
_MAX_PARTS = 8
# Of what no part claims yet: the head of a part, or what stands before the first. Content never waits there.
_MAX_PENDING_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What came with the content of a file."""

    name: str
    purpose: str
    size: int
    expires_after_s: int | None


def receive(body: Iterable[bytes], content_type: str, write: Callable[[bytes], None], max_bytes: int) -> Upload:
    """Read a form to its end and give the file's content to `write` as it comes.

    Raises a ServingError for a form that is not whole, or says something else than one file
    and what it is for; by then a part of the file may have been written.
    """
    form = _Form(write, max_bytes)
    for event in _events(body, _boundary(content_type)):
        form.take(event)
    return form.upload()


def _boundary(content_type: str) -> bytes:
    media, options = parse_options_header(content_type)
    if media != "multipart/form-data":
        raise UnsupportedMediaTypeError("Send the file as 'Content-Type: multipart/form-data', with its boundary.")
    boundary = options.get("boundary", "")
    if not (boundary.isascii() and boundary.isprintable() and 1 <= len(boundary) <= _LONGEST_BOUNDARY):
        raise InvalidRequestError(f"The boundary of the form must have 1 to {_LONGEST_BOUNDARY} ASCII characters.")
    return boundary.encode("ascii")


def _events(body: Iterable[bytes], boundary: bytes) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary, _MAX_PENDING_BYTES, max_parts=_MAX_PARTS)
    try:
        for piece in body:
            decoder.receive_data(piece)
            while not isinstance(event := decoder.next_event(), NeedData):
                yield event
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), Epilogue):
            yield event
    except RequestEntityTooLarge:
        raise InvalidRequestError("The form has too many parts, or one whose head has no end.") from None
    except ValueError:  # the decoder's word for everything else
        raise InvalidRequestError("The form is malformed, or ended before it was complete.") from None


class _Form:
    """The parts of one form, as far as they have come."""

    def __init__(self, write: Callable[[bytes], None], max_bytes: int) -> None:
        self._write = write
        self._max_bytes = max_bytes
        self._fields: dict[str, bytes] = {}
        self._name: str | None = None
        self._size = 0
        self._part = ""

    def take(self, event: Event) -> None:
        match event:
            case File():
                self._begin(event.name)
                if event.name != _FILE:
                    _refuse(event.name, "must not be a file.")
                self._name = _checked_name(event.filename)
            case Field():
                self._begin(event.name)
                if event.name == _FILE:
                    _refuse(_FILE, "must be sent as a file, with a name.")
                self._fields[event.name] = b""
            case Data():
                self._add(event.data)
                if not event.more_data and self._part == _PURPOSE:
                    self._purpose()  # before a file of no use is read to its end
            case _:
                pass

    def _begin(self, name: Any) -> None:
        if name not in (_FILE, *_FIELDS):
            shown = str(name)[:64]
            raise UnknownParameterError(f"Unknown parameter: '{shown}'.", param=shown)
        if name in self._fields or (name == _FILE and self._name is not None):
            _refuse(name, "is given twice.")
        self._part = name

    def _add(self, data: bytes) -> None:
        if self._part != _FILE:
            value = self._fields[self._part] + data
            if len(value) > _LONGEST_FIELD:
                _refuse(self._part, "is too long.")
            self._fields[self._part] = value
            return
        self._size += len(data)
        if self._size > self._max_bytes:
            raise RequestTooLargeError(f"A file may have at most {self._max_bytes} bytes.", param=_FILE)
        if data:
            self._write(data)

    def upload(self) -> Upload:
        if self._name is None:
            _refuse(_FILE, "is required: one part of the form, with the name of the file.")
        purpose = self._purpose()
        if not self._size:
            _refuse(_FILE, "is empty.")
        return Upload(name=self._name, purpose=purpose, size=self._size, expires_after_s=self._expires_after_s())

    def _purpose(self) -> str:
        purpose = self._text(_PURPOSE)
        if purpose is None:
            _refuse(_PURPOSE, "is required.")
        if purpose != "batch":
            raise UnsupportedParameterError(
                "'purpose' must be 'batch': nothing here uses files of another one.", param=_PURPOSE
            )
        return purpose

    def _expires_after_s(self) -> int | None:
        anchor, seconds = self._text(_ANCHOR), self._text(_SECONDS)
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at":
            _refuse(_ANCHOR, "must be 'created_at'.")
        if seconds is None or not (seconds.isascii() and seconds.isdigit() and LEAST_S <= int(seconds) <= MOST_S):
            _refuse(_SECONDS, f"must be a whole number from {LEAST_S} to {MOST_S}.")
        return int(seconds)

    def _text(self, name: str) -> str | None:
        value = self._fields.get(name)
        return None if value is None else value.decode("utf-8", "replace")


def _checked_name(name: str) -> str:
    if not 1 <= len(name) <= _LONGEST_NAME or any(ord(char) < 32 or ord(char) == 127 for char in name):
        _refuse(_FILE, f"must have a name of 1 to {_LONGEST_NAME} characters, without control characters.")
    return name


def _refuse(name: str, why: str) -> NoReturn:
    raise InvalidRequestError(f"'{name}' {why}", param=name)

"""The input file of a batch, line by line: what it says, and what is wrong with it.

Only the form is looked at here, and one bad line fails the whole batch, as OpenAI's do.
What the bodies ask for is checked when they are due. However large the file is, one line
of it is in memory, and eight bytes for each custom id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import orjson

from tasks.bulk.prefix import prefix_of
from tasks.bulk.records import Flaw, Line
from tasks.messages import Endpoint

URLS = {
    "/v1/chat/completions": Endpoint.CHAT,
    "/v1/completions": Endpoint.COMPLETION,
    "/v1/embeddings": Endpoint.EMBEDDING,
}
MAX_FLAWS = 100
"""After so many the rest of a file is not looked at."""

_PATHS = {endpoint: url for url, endpoint in URLS.items()}
# What tells the endpoint of a line that is only a body.
_TELLING = {"messages": Endpoint.CHAT, "prompt": Endpoint.COMPLETION, "input": Endpoint.EMBEDDING}
_ENVELOPE = frozenset({"custom_id", "method", "url", "body"})
_LONGEST_ID = 512
_LONGEST_MODEL = 256
_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 16
# One string, with the colon that makes it a key, or a bracket.
_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")([ \t\r\n]*:)?|[{}\[\]]', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a file has to keep to. `endpoint` None: each line says its own, and may be nothing but a body."""

    endpoint: Endpoint | None
    max_line_bytes: int
    max_lines: int | None = None


class InputFile:
    """One reading of a file from its beginning. `flaws` is what it has shown so far: of a good file, nothing."""

    def __init__(self, file: IO[bytes], terms: Terms) -> None:
        self._file = file
        self._terms = terms
        self._flaws: list[Flaw] = []
        # Hashes of 64 bits: that two of a million ids have the same is as likely as 1 : 30,000,000.
        self._seen: set[int] = set()

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        return tuple(self._flaws)

    def chunks(self, *, after: int = 0, size: int = 1000) -> Iterator[list[Line]]:
        """Yield the lines beyond number `after`, for every `size` lines of the file, until its end or too many flaws.

        The lines before are looked at too, since a custom id must not be repeated. A chunk
        may be empty, and those that follow a flaw are.
        """
        count = 0
        chunk: list[Line] = []
        for raw in _lines(self._file, self._terms.max_line_bytes):
            if not raw.blank:
                count += 1
                self._take(raw, count, chunk if raw.number > after else None)
            if len(self._flaws) >= MAX_FLAWS or self._too_many(count):
                break
            if raw.number % size == 0:
                yield [] if self._flaws else chunk
                chunk = []
        if not count:
            self._flaws.append(Flaw("empty_file", "The file has no lines."))
        yield [] if self._flaws else chunk

    def _take(self, raw: _Raw, count: int, chunk: list[Line] | None) -> None:
        if self._too_many(count):
            text = f"The file has more than {self._terms.max_lines} lines."
            self._flaws.append(Flaw("too_many_tasks", text))
            return
        read = self._read(raw)
        if isinstance(read, Flaw):
            self._flaws.append(read)
        elif chunk is not None:
            chunk.append(read)

    def _too_many(self, count: int) -> bool:
        return self._terms.max_lines is not None and count > self._terms.max_lines

    def _read(self, raw: _Raw) -> Line | Flaw:
        try:
            read = _read_line(raw, self._terms)
        except _FlawedError as error:
            return Flaw(error.code, error.message, raw.number, error.param)
        digest = hash(read.custom_id)
        if digest in self._seen:
            text = "The custom_id of this line is that of an earlier one; each must be unique in the file."
            return Flaw("duplicate_custom_id", text, raw.number, "custom_id")
        self._seen.add(digest)
        return read


class _Raw(NamedTuple):
    """A line of the file; `text` is None when it is too long."""

    number: int
    offset: int
    length: int
    text: bytes | None

    @property
    def blank(self) -> bool:
        return self.text is not None and not self.text.strip()


class _FlawedError(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.message = message
        self.param = param


def body_at(file: IO[bytes], line: Line) -> bytes:
    """Return the JSON of the line's body, byte for byte as it stands in the file.

    Raises ValueError when the file has no such line there: it is not the one that was read.
    """
    if line.body:
        return line.body
    file.seek(line.offset)
    raw = file.read(line.length)
    if len(raw) != line.length:
        raise ValueError(f"line {line.number} is not in the file any more")
    begin, end = _span(raw)
    return raw[begin:end] if end else raw.strip()


def _read_line(raw: _Raw, terms: Terms) -> Line:
    """Raises _FlawedError."""
    said = _parse(raw.text, terms)
    if terms.endpoint is None and not _ENVELOPE & said.keys():
        custom_id, endpoint, body = f"line-{raw.number}", _told_by(said), said
    else:
        custom_id, endpoint, body = _custom_id(said), _endpoint(said, terms), _body(said)
    return Line(
        number=raw.number,
        custom_id=custom_id,
        model=_model(body, in_envelope=body is not said),
        endpoint=endpoint,
        offset=raw.offset,
        length=raw.length,
        prefix=prefix_of(body),
    )


def _lines(file: IO[bytes], limit: int) -> Iterator[_Raw]:
    number = offset = 0
    # Room for both characters of a line's end.
    while text := file.readline(limit + 2):
        number += 1
        length = len(text)
        if too_long := not text.endswith(b"\n") and length > limit:
            while piece := file.readline(_PIECE):
                length += len(piece)
                if piece.endswith(b"\n"):
                    break
        begin = len(_BOM) if number == 1 and text.startswith(_BOM) else 0
        stripped = text[begin:]
        too_long = too_long or len(stripped.rstrip(b"\r\n")) > limit
        yield _Raw(number, offset + begin, length - begin, None if too_long else stripped)
        offset += length


def _parse(text: bytes | None, terms: Terms) -> dict[str, Any]:
    if text is None:
        raise _FlawedError("invalid_json_line", f"This line is longer than {terms.max_line_bytes} bytes.")
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _FlawedError("invalid_json_line", _why(text)) from None
    if not isinstance(said, dict):
        raise _FlawedError("invalid_json_line", "This line is not a JSON object.")
    return said


def _why(text: bytes) -> str:
    try:
        text.decode()
    except UnicodeDecodeError:
        return "This line is not UTF-8."
    return "This line is not parseable as valid JSON, or is nested too deeply."


def _required(said: dict[str, Any], name: str) -> Any:
    if said.get(name) in (None, ""):
        raise _FlawedError("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    return said[name]


def _custom_id(said: dict[str, Any]) -> str:
    return _text(_required(said, "custom_id"), "custom_id", _LONGEST_ID)


def _endpoint(said: dict[str, Any], terms: Terms) -> Endpoint:
    if _required(said, "method") != "POST":
        raise _FlawedError("invalid_method", "'method' must be 'POST'.", "method")
    url = _required(said, "url")
    endpoint = URLS.get(url) if isinstance(url, str) else None
    if terms.endpoint is not None and endpoint is not terms.endpoint:
        text = f"The URL of this line is not the batch's endpoint, {_PATHS[terms.endpoint]}."
        raise _FlawedError("url_mismatch", text, "url")
    if endpoint is None:
        raise _FlawedError("url_mismatch", f"'url' must be one of {', '.join(URLS)}.", "url")
    return endpoint


def _body(said: dict[str, Any]) -> dict[str, Any]:
    body = _required(said, "body")
    if not isinstance(body, dict):
        raise _FlawedError("invalid_request", "'body' must be an object.", "body")
    return body


def _told_by(body: dict[str, Any]) -> Endpoint:
    for name, endpoint in _TELLING.items():
        if name in body:
            return endpoint
    raise _FlawedError(
        "invalid_request",
        "This line is neither a request with a 'url' nor a body with 'messages', 'prompt' or 'input'.",
    )


def _model(body: dict[str, Any], *, in_envelope: bool) -> str:
    param = "body.model" if in_envelope else "model"
    if body.get("model") in (None, ""):
        raise _FlawedError("missing_required_parameter", f"Missing required parameter: '{param}'.", param)
    if body.get("stream") is True:
        param = param.replace("model", "stream")
        raise _FlawedError("invalid_request", f"'{param}' must not be true: a batch does not stream.", param)
    return _text(body["model"], param, _LONGEST_MODEL)


def _text(value: Any, param: str, longest: int) -> str:
    # No database takes the character NUL.
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        text = f"'{param}' must be a text of at most {longest} characters, without NUL."
        raise _FlawedError("invalid_request", text, param)
    return value


def _span(raw: bytes) -> tuple[int, int]:
    """Return where the object under the key `body` begins and ends in a line that was read; (0, 0) without that key.

    Looked for in the text, since no parser gives back a number as it was written, and
    without recursion. Of equal keys the last counts, as it did when the line was read.
    """
    depth = begin = end = 0
    wanted = False
    for token in _TOKEN.finditer(raw):
        if token[1] is not None:
            if depth == 1 and token[2] is not None:
                wanted = _is_body(token[1])
            continue
        if token[0] in b"{[":
            depth += 1
            if depth == 2 and wanted:
                begin = token.start()
        else:
            depth -= 1
            if depth == 1 and wanted:
                end, wanted = token.end(), False
    return begin, end


def _is_body(key: bytes) -> bool:
    return key == b'"body"' or (b"\\" in key and orjson.loads(key) == "body")

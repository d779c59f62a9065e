"""What `celerity batch submit` is given: a file of batch lines, or of less, of which batch lines are made.

The file is read twice, line by line: to look through it, and to send it. So what is wrong
is said before anything is sent, and a large file takes no more memory than a small one.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import IO, Any

import orjson

from deploy.errors import CommandError

CHAT = "/v1/chat/completions"
# What an endpoint answers to, which tells a body's endpoint too.
FIELDS = {CHAT: "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}

_LONGEST_LINE = 16 << 20
_BLOCK = 1 << 18


class Shape(StrEnum):
    """What each line of a file is."""

    LINES = "batch lines"
    BODIES = "request bodies"
    PROMPTS = "plain prompts"


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that the gateway takes in one file."""

    lines: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInput:
    """A file that was looked through."""

    path: Path
    shape: Shape
    endpoint: str
    model: str | None
    lines: int
    size: int
    """Bytes as they are sent."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the batch lines in pieces, `size` bytes in all. Raises CommandError when the file is another by now."""
        pieces: list[bytes] = []
        held = sent = 0
        for number, raw in _raw_lines(self.path):
            pieces.append(batch_line(raw, number, self.shape, self.endpoint, self.model))
            held += len(pieces[-1])
            if held >= _BLOCK:
                yield b"".join(pieces)
                sent, held, pieces = sent + held, 0, []
            if sent + held > self.size:
                break
        if sent + held != self.size:
            raise CommandError(f"{self.path} was changed while it was read; submit it again")
        yield b"".join(pieces)


def look_through(path: Path, *, endpoint: str | None, model: str | None, limits: Limits) -> BatchInput:
    """Read the file once and say what it holds. Raises CommandError, with the line, for what could not be a batch."""
    shape, url = _first(path, endpoint, model)
    lines = size = 0
    for number, raw in _raw_lines(path):
        made = batch_line(raw, number, shape, url, model)
        lines += bool(made.strip())
        size += len(made)
    if lines > limits.lines or size > limits.size:
        raise CommandError(_too_much(path, lines, size, limits))
    return BatchInput(path=path, shape=shape, endpoint=url, model=model, lines=lines, size=size)


def batch_line(raw: bytes, number: int, shape: Shape, endpoint: str, model: str | None) -> bytes:
    """Return the line as it is sent, with its end; nothing for a blank line. Raises CommandError, naming it."""
    text = raw.strip()
    if not text:
        # The server counts lines too, and its errors name them.
        return b"\n" if shape is Shape.LINES else b""
    match shape:
        case Shape.LINES:
            _object(text, number)
            return text + b"\n"
        case Shape.BODIES:
            body = _object(text, number)
            if "model" not in body:
                if model is None:
                    raise CommandError(f"line {number} names no model; give one with --model")
                text = orjson.dumps({"model": model, **body})
        case Shape.PROMPTS:
            text = orjson.dumps(_prompt_body(_text(text, number), endpoint, model))
    head = {"custom_id": f"line-{number}", "method": "POST", "url": endpoint}
    return orjson.dumps(head)[:-1] + b',"body":' + text + b"}\n"


def _first(path: Path, endpoint: str | None, model: str | None) -> tuple[Shape, str]:
    """Tell by its first line what the file holds, and for which endpoint."""
    number, text = next(((number, raw.strip()) for number, raw in _raw_lines(path) if raw.strip()), (0, b""))
    if not text:
        raise CommandError(f"{path} is empty")
    if text.startswith(b"[") and (text == b"[" or _is_json(text) or text.startswith(b"[{")):
        raise CommandError(f"{path} begins with a JSON array; a batch has one JSON object a line: jq -c '.[]' {path}")
    if not text.startswith(b"{"):
        if model is None:
            raise CommandError(f"{path} has plain text, one prompt a line; say with --model which model is to answer")
        return Shape.PROMPTS, endpoint or CHAT
    line = _object(text, number)
    if "custom_id" in line or "body" in line:
        return Shape.LINES, _endpoint_of_line(line, number, endpoint, model)
    found = next((url for url, name in FIELDS.items() if name in line), None)
    if found is None:
        names = ", ".join(FIELDS.values())
        raise CommandError(
            f"line {number} is no batch line (custom_id, method, url, body), and no body of a request: "
            f"it has none of {names}"
        )
    return Shape.BODIES, endpoint or found


def _endpoint_of_line(line: dict[str, Any], number: int, endpoint: str | None, model: str | None) -> str:
    if model is not None:
        raise CommandError("the file has batch lines, each of which names its own model; leave --model out")
    url = line.get("url")
    if url not in FIELDS:
        raise CommandError(f"line {number} has the url {url!r}; it can be {', '.join(FIELDS)}")
    if endpoint not in (None, url):
        raise CommandError(f"line {number} is for {url}, and --endpoint says {endpoint}")
    return str(url)


def _prompt_body(text: str, endpoint: str, model: str | None) -> dict[str, Any]:
    value = [{"role": "user", "content": text}] if endpoint == CHAT else text
    return {"model": model, FIELDS[endpoint]: value}


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers, from 1, without the mark that some editors put before the first."""
    try:
        with path.open("rb") as file:
            if file.peek(3)[:3] == codecs.BOM_UTF8:
                file.read(3)
            yield from _numbered(file)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := file.readline(_LONGEST_LINE):
        number += 1
        if len(raw) == _LONGEST_LINE:
            raise CommandError(f"line {number} is longer than {_LONGEST_LINE >> 20} MiB")
        yield number, raw


def _object(text: bytes, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CommandError(
            f"line {number} is not valid JSON ({error.msg}); each line must be one JSON object, whole on that line"
        ) from None
    if not isinstance(value, dict):
        raise CommandError(f"line {number} is not a JSON object, and the lines before it are")
    return value


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _text(text: bytes, number: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise CommandError(f"line {number} is not UTF-8") from None


def _too_much(path: Path, lines: int, size: int, limits: Limits) -> str:
    even = math.ceil(lines / math.ceil(lines / limits.lines))
    # Lines differ in length, so a part that is reckoned by the mean keeps some room.
    each = min(even, max(1, int(0.95 * limits.size * lines / size)))
    return (
        f"{path} has {lines:,} lines and {size / 1e6:,.0f} MB; a batch may have {limits.lines:,} lines and "
        f"{limits.size / 1e6:,.0f} MB. Split it, and submit each part:\n"
        f"  split -l {each} -d --additional-suffix={path.suffix} {quote(str(path))} {quote(path.stem)}-\n"
        "(A gateway with other limits: set CELERITY_BATCH_MAX_LINES and CELERITY_MAX_FILE_BYTES here as there.)"
    )

"""Read a request's body: JSON whole or not at all, an upload in pieces; both bounded in size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import ParseException

from tasks.errors import InvalidRequestError, RequestTimeoutError, RequestTooLargeError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


# As much as a socket gives at once, and little beside what a stream costs anyway.
_PIECE_BYTES = 64 * 1024


def read(environ: WSGIEnvironment, max_bytes: int) -> bytes:
    """Return the body, which has to be JSON. Raises a ServingError, before reading anything where it can.

    A body without a length (chunked) is read up to the limit and one byte more.
    """
    _require_json(environ)
    length = _length_within(environ, max_bytes)
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""
    body = _read(environ, max_bytes + 1 if length is None else length)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    if length is not None and len(body) < length:
        raise _too_short()
    return body


def pieces(environ: WSGIEnvironment, max_bytes: int) -> Iterator[bytes]:
    """Yield the body as it comes, whatever it is. Raises a ServingError, before reading anything where it can."""
    _require_plain(environ)
    length = _length_within(environ, max_bytes)
    if length is None and not environ.get("wsgi.input_terminated"):
        return
    left = max_bytes + 1 if length is None else length
    while left > 0 and (piece := _read(environ, min(_PIECE_BYTES, left))):
        left -= len(piece)
        yield piece
    if length is None and left == 0:
        raise _too_large(max_bytes)
    if length is not None and left > 0:
        raise _too_short()


def _read(environ: WSGIEnvironment, size: int) -> bytes:
    try:
        data: bytes = environ["wsgi.input"].read(size)
    except TimeoutError:
        raise RequestTimeoutError("The body did not arrive in time; send it faster.") from None
    except (OSError, ParseException):
        raise InvalidRequestError("The body is malformed, or ended before it was complete.") from None
    return data


def _require_json(environ: WSGIEnvironment) -> None:
    media, _, rest = str(environ.get("CONTENT_TYPE", "")).partition(";")
    charset = rest.strip().lower().replace('"', "")
    if media.strip().lower() != "application/json" or charset not in {"", "charset=utf-8", "charset=utf8"}:
        raise UnsupportedMediaTypeError("Send the body as 'Content-Type: application/json', in UTF-8.")
    _require_plain(environ)


def _require_plain(environ: WSGIEnvironment) -> None:
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaTypeError("Send the body without a Content-Encoding.")


def _length_within(environ: WSGIEnvironment, max_bytes: int) -> int | None:
    """Return what the client says, None if it does not. Raises RequestTooLargeError."""
    text: Any = environ.get("CONTENT_LENGTH")
    if not text:
        return None
    if not str(text).isascii() or not str(text).isdigit():
        raise InvalidRequestError("Content-Length is not a number.")
    length = int(text)
    if length > max_bytes:
        raise _too_large(max_bytes)
    return length


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"The body may have at most {max_bytes} bytes.")


def _too_short() -> InvalidRequestError:
    return InvalidRequestError("The body is shorter than its Content-Length.")

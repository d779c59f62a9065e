"""Read a request's body: JSON only, bounded in size, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import ParseException

from tasks.errors import InvalidRequestError, RequestTimeoutError, RequestTooLargeError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def read(environ: WSGIEnvironment, max_bytes: int) -> bytes:
    """Return the body. Raises a ServingError, before reading anything where it can.

    A body without a length (chunked) is read up to the limit and one byte more.
    """
    _require_json(environ)
    length = _content_length(environ)
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""
    try:
        body: bytes = environ["wsgi.input"].read(max_bytes + 1 if length is None else length)
    except TimeoutError:
        raise RequestTimeoutError("The body did not arrive in time; send it faster.") from None
    except (OSError, ParseException):
        raise InvalidRequestError("The body is malformed, or ended before it was complete.") from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    if length is not None and len(body) < length:
        raise InvalidRequestError("The body is shorter than its Content-Length.")
    return body


def _require_json(environ: WSGIEnvironment) -> None:
    media, _, rest = str(environ.get("CONTENT_TYPE", "")).partition(";")
    charset = rest.strip().lower().replace('"', "")
    if media.strip().lower() != "application/json" or charset not in {"", "charset=utf-8", "charset=utf8"}:
        raise UnsupportedMediaTypeError("Send the body as 'Content-Type: application/json', in UTF-8.")
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaTypeError("Send the body without a Content-Encoding.")


def _content_length(environ: WSGIEnvironment) -> int | None:
    text: Any = environ.get("CONTENT_LENGTH")
    if not text:
        return None
    if not str(text).isascii() or not str(text).isdigit():
        raise InvalidRequestError("Content-Length is not a number.")
    return int(text)


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"The body may have at most {max_bytes} bytes.")

"""A failure as a response to an OpenAI client; `tasks.openai.faces` says how each looks."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response

from tasks.errors import ServingError
from tasks.openai.faces import body, envelope, face_of

# What HTTP itself refuses, before any handler of ours. `code` and text by status.
_HTTP = {
    400: ("bad_request", "This is not valid HTTP."),
    403: ("forbidden", "This connection is not allowed."),
    404: ("not_found", "There is nothing at this address. The API begins at /v1."),
    405: ("method_not_allowed", "This address does not answer to this method."),
    414: ("uri_too_long", "The address is too long."),
    417: ("expectation_failed", "This expectation cannot be met."),
    431: ("headers_too_large", "The headers are too large."),
    501: ("not_implemented", "This transfer coding is not supported."),
}


def response(error: ServingError, luck: float = 0.0) -> Response:
    """Return the error as an answer.

    `luck`, from 0 to 1, spreads over up to twice the time those who are told to come
    back: they were refused together, and would return together.
    """
    face = face_of(error.code)
    answer = Response(body(error), status=face.status, content_type="application/json")
    least_s = error.retry_after_s or face.retry_after_s
    if least_s is not None:
        after_s = least_s * (1 + luck)
        answer.headers["Retry-After"] = str(round(after_s))
        answer.headers["retry-after-ms"] = str(round(after_s * 1000))
    should_retry = False if error.final else face.should_retry
    if should_retry is not None:
        answer.headers["x-should-retry"] = "true" if should_retry else "false"
    if face.status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def http_error(status: int) -> tuple[str, bytes]:
    """Return the reason phrase and the body for a failure of HTTP itself."""
    code, message = _HTTP.get(status, ("internal_error", "The server has failed; the error was logged."))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return HTTPStatus(status).phrase, envelope(message, kind, None, code)

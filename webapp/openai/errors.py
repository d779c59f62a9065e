"""How each failure looks to an OpenAI client: one table, one envelope."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import orjson
from flask import Response

from tasks.errors import ServingError


@dataclass(frozen=True, slots=True)
class Face:
    """`retry_after_s` is the least of Retry-After where the error does not know better; `should_retry` overrides
    what OpenAI's clients do by themselves.
    """

    status: int
    type: str = "invalid_request_error"
    retry_after_s: int | None = None
    should_retry: bool | None = None


FACES = {
    "invalid_request": Face(HTTPStatus.BAD_REQUEST),
    "invalid_json": Face(HTTPStatus.BAD_REQUEST),
    "unknown_parameter": Face(HTTPStatus.BAD_REQUEST),
    "unsupported_parameter": Face(HTTPStatus.BAD_REQUEST),
    "context_length_exceeded": Face(HTTPStatus.BAD_REQUEST),
    "unsupported_endpoint": Face(HTTPStatus.BAD_REQUEST),
    "invalid_api_key": Face(HTTPStatus.UNAUTHORIZED),
    "operator_key_required": Face(HTTPStatus.FORBIDDEN),
    "forbidden_origin": Face(HTTPStatus.FORBIDDEN),
    "model_not_found": Face(HTTPStatus.NOT_FOUND),
    "request_not_found": Face(HTTPStatus.NOT_FOUND),
    "idempotency_key_reused": Face(HTTPStatus.CONFLICT, should_retry=False),
    "request_timeout": Face(HTTPStatus.REQUEST_TIMEOUT),
    "request_too_large": Face(HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    "unsupported_media_type": Face(HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    "request_cancelled": Face(HTTPStatus.GONE, should_retry=False),
    "internal_error": Face(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error"),
    "engine_failed": Face(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error"),
    "server_overloaded": Face(HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable_error", retry_after_s=2),
    "service_unavailable": Face(HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable_error", retry_after_s=1),
    "model_load_failed": Face(HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable_error", retry_after_s=30),
    "pool_exhausted": Face(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", retry_after_s=30),
    # To try again would wait as long again, in front of the same queue.
    "deadline_exceeded": Face(HTTPStatus.GATEWAY_TIMEOUT, "server_error", should_retry=False),
}

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


def face_of(code: str) -> Face:
    """Return the face of `code`; a code that only a newer release knows is an internal error."""
    return FACES.get(code, FACES["internal_error"])


def body(error: ServingError) -> bytes:
    """Return the error as an OpenAI client reads it, in a response and in an event alike."""
    return _envelope(error.message, face_of(error.code).type, error.param, error.code)


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
    return HTTPStatus(status).phrase, _envelope(message, kind, None, code)


def _envelope(message: str, kind: str, param: str | None, code: str) -> bytes:
    # Four keys, always: clients read `error.message` and type-check the rest.
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})

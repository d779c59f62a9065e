"""How each failure looks to an OpenAI client: one table, one envelope."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import orjson

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
    "file_not_found": Face(HTTPStatus.NOT_FOUND),
    "file_in_use": Face(HTTPStatus.CONFLICT, should_retry=False),
    "batch_not_found": Face(HTTPStatus.NOT_FOUND),
    "batch_ended": Face(HTTPStatus.CONFLICT, should_retry=False),
    "batch_expired": Face(HTTPStatus.GATEWAY_TIMEOUT, "server_error", should_retry=False),
    "too_many_batches": Face(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", retry_after_s=60, should_retry=False),
    "priority_not_allowed": Face(HTTPStatus.FORBIDDEN),
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


def face_of(code: str) -> Face:
    """Return the face of `code`; a code that only a newer release knows is an internal error."""
    return FACES.get(code, FACES["internal_error"])


def body(error: ServingError) -> bytes:
    """Return the error as an OpenAI client reads it, in a response and in an event alike."""
    return envelope(error.message, face_of(error.code).type, error.param, error.code)


def envelope(message: str, kind: str, param: str | None, code: str) -> bytes:
    """Return the JSON of an error."""
    # Four keys, always: clients read `error.message` and type-check the rest.
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})

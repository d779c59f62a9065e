"""Everything that can go wrong with a request, as data.

An error crosses Redis, so its identity is its `code`, never its class. The codes
are stable: clients and dashboards match on them. What each looks like over HTTP is
decided in one table, `tasks.openai.faces.FACES`.
"""

from __future__ import annotations


class ServingError(Exception):
    """A request failed for a reason its caller may be told.

    `message` is shown to the client, so it never holds a path, a host name, a prompt
    or the text of a foreign exception. `param` names the offending field of the body.
    `final`: the same request would fail again, whatever its code suggests.
    `retry_after_s`: when it is worth repeating, where somebody knows that better than its code does.
    """

    code = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.final = final
        self.retry_after_s = retry_after_s


class InvalidRequestError(ServingError):
    """The request can never succeed as it stands."""

    code = "invalid_request"


class InvalidJsonError(InvalidRequestError):
    """The body is not one JSON object in UTF-8."""

    code = "invalid_json"


class UnknownParameterError(InvalidRequestError):
    """The body has a field that no endpoint of ours knows."""

    code = "unknown_parameter"


class UnsupportedParameterError(InvalidRequestError):
    """The field is known, but this deployment does not allow it."""

    code = "unsupported_parameter"


class ContextLengthExceededError(InvalidRequestError):
    """Prompt and answer together do not fit the model's context."""

    code = "context_length_exceeded"


class UnsupportedEndpointError(InvalidRequestError):
    """The model's engine cannot do what the endpoint asks (embeddings from a chat model, say)."""

    code = "unsupported_endpoint"


class InvalidApiKeyError(ServingError):
    """No key, or one that is not ours. The same text for both."""

    code = "invalid_api_key"


class OperatorKeyRequiredError(ServingError):
    """The key is a user's, and this is for operators."""

    code = "operator_key_required"


class ForbiddenOriginError(ServingError):
    """A web page of somebody else's asks, by the browser of an operator."""

    code = "forbidden_origin"


class ModelNotFoundError(ServingError):
    """No model or alias of that name is configured."""

    code = "model_not_found"


class RequestNotFoundError(ServingError):
    """No request of that id is kept, or it is somebody else's."""

    code = "request_not_found"


class FileNotFoundHereError(ServingError):
    """No file of this id belongs to the caller."""

    code = "file_not_found"


class FileInUseError(ServingError):
    """A batch that has not ended reads the file."""

    code = "file_in_use"


class BatchNotFoundError(ServingError):
    """No batch of this id belongs to the caller."""

    code = "batch_not_found"


class TooManyBatchesError(ServingError):
    """Too many batches of the caller have not ended yet."""

    code = "too_many_batches"


class BatchEndedError(ServingError):
    """The batch has ended already, so that it cannot be cancelled."""

    code = "batch_ended"


class BatchExpiredError(ServingError):
    """The line was not answered within its batch's completion window."""

    code = "batch_expired"


class PriorityNotAllowedError(ServingError):
    """The key may not ask for work of this priority."""

    code = "priority_not_allowed"


class IdempotencyKeyReusedError(ServingError):
    """The Idempotency-Key stands for another request already."""

    code = "idempotency_key_reused"


class RequestTooLargeError(ServingError):
    """The body exceeds the size limit."""

    code = "request_too_large"


class UnsupportedMediaTypeError(ServingError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"


class RequestTimeoutError(ServingError):
    """The client took too long to send its own request."""

    code = "request_timeout"


class ServerOverloadedError(ServingError):
    """The model's queue is full."""

    code = "server_overloaded"


class ServiceUnavailableError(ServingError):
    """Redis is out of reach, or this process is shutting down."""

    code = "service_unavailable"


class ModelLoadFailedError(ServingError):
    """The model could not be loaded."""

    code = "model_load_failed"


class PoolExhaustedError(ServingError):
    """No device can be freed for the model now."""

    code = "pool_exhausted"


class DeadlineExceededError(ServingError):
    """A limit on waiting, on silence or on the whole request ran out."""

    code = "deadline_exceeded"


class EngineFailedError(ServingError):
    """The engine died or broke while it held the request."""

    code = "engine_failed"


class RequestCancelledError(ServingError):
    """The request was cancelled; only somebody who reads the stream later ever sees this."""

    code = "request_cancelled"


def every_error() -> list[type[ServingError]]:
    """Return `ServingError` and all its subclasses."""
    found: list[type[ServingError]] = [ServingError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


def error_of(
    code: str,
    message: str,
    param: str | None = None,
    *,
    final: bool = False,
    retry_after_s: float | None = None,
) -> ServingError:
    """Rebuild the error that was written down as `code`.

    A code from a newer release than ours is kept as it is: it becomes a plain
    `ServingError` whose `code` is that text.
    """
    by_code = {cls.code: cls for cls in every_error()}
    error = by_code.get(code, ServingError)(message, param=param, final=final, retry_after_s=retry_after_s)
    if code not in by_code:
        error.code = code
    return error

"""The way of every generating endpoint: read, check, queue, answer.

The body is read once, to check it; what the engine gets is the client's bytes.
"""

from __future__ import annotations

from flask import Response, g, request

from tasks.dispatch import Answer
from tasks.errors import ContextLengthExceededError, ModelNotFoundError, ServiceUnavailableError
from tasks.messages import Call, Endpoint
from webapp import request_body, strict_json
from webapp.connection import ClientConnection
from webapp.gateway import Gateway
from webapp.openai.deadlines import Deadlines, Limits
from webapp.openai.fields import RequestSchema
from webapp.openai.prompts import tokens_at_least
from webapp.openai.relay import Begun, Followed, collect, stream
from webapp.openai.tally import Tally
from workers.registry import ModelSpec

_SSE_HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would keep the tokens until it has a page of them
}


def serve(gateway: Gateway, endpoint: Endpoint, schema: RequestSchema) -> Response:
    """Answer the current Flask request. Raises the ServingError that ends it early."""
    raw = request_body.read(request.environ, gateway.settings.max_body_bytes)
    body = strict_json.parse(raw)
    schema.check(body)
    spec = gateway.registry.resolve(body["model"])
    if spec is None:
        raise ModelNotFoundError("There is no such model here; GET /v1/models lists those there are.", param="model")
    _check_context(body, spec)
    if gateway.drain.began:
        raise ServiceUnavailableError("The server is shutting down; repeat the request.")
    call = Call(
        id=g.request_id,
        model=spec.id,
        endpoint=endpoint,
        body=raw,
        stream=bool(body.get("stream")),
        gateway="",
        queue_wait_s=spec.queue.max_wait_s,
        total_s=gateway.settings.total_timeout_s,
    )
    del body
    accepted_at = gateway.clock()
    answer = gateway.dispatcher.submit(call, max_depth=spec.queue.max_depth)
    followed = _follow(gateway, call, answer, accepted_at)
    return _stream(gateway, followed) if call.stream else _whole(gateway, followed, accepted_at)


def _follow(gateway: Gateway, call: Call, answer: Answer, accepted_at: float) -> Followed:
    g.accepted = True
    settings = gateway.settings
    limits = Limits(
        queue_wait_s=call.queue_wait_s,
        first_token_s=settings.first_token_timeout_s,
        silence_s=settings.silence_timeout_s,
        total_s=call.total_s,
    )
    connection = request.environ.get("gunicorn.socket")
    watch = connection.watch(answer.abandon) if isinstance(connection, ClientConnection) else None
    return Followed(
        answer,
        deadlines=Deadlines(limits, now=accepted_at, stream=call.stream),
        tally=Tally(call, now=accepted_at, label=g.client_request_id),
        drain=gateway.drain,
        clock=gateway.clock,
        unwatch=watch.stop if watch else lambda: None,
    )


def _stream(gateway: Gateway, followed: Followed) -> Response:
    settings = gateway.settings
    pieces = stream(followed, commit_after_s=settings.commit_after_s, ping_s=settings.ping_interval_s)
    return Response(
        Begun(pieces),
        content_type="text/event-stream; charset=utf-8",
        headers=_SSE_HEADERS,
        direct_passthrough=True,
    )


def _whole(gateway: Gateway, followed: Followed, accepted_at: float) -> Response:
    done = collect(followed)
    took_ms = round((gateway.clock() - accepted_at) * 1000)
    return Response(done.body, content_type="application/json", headers={"openai-processing-ms": str(took_ms)})


def _check_context(body: dict[str, object], spec: ModelSpec) -> None:
    """Refuse what cannot fit, as far as it shows without a tokenizer; the engine counts exactly."""
    if spec.max_model_len is None:
        return
    prompt = body.get("prompt") or body.get("input")
    tokens = tokens_at_least(prompt) if prompt else 1
    param = next((p for p in ("max_completion_tokens", "max_tokens") if body.get(p)), None)
    wanted = body[param] if param else 0
    assert isinstance(wanted, int)
    if tokens + wanted > spec.max_model_len:
        raise ContextLengthExceededError(
            f"This model's context holds {spec.max_model_len} tokens, the answer included; "
            f"the request needs at least {tokens + wanted}.",
            param=param or ("prompt" if "prompt" in body else "input"),
        )

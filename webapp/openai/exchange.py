"""The way of every generating endpoint: read, check, queue, answer.

The body is read once, to check it; what the engine gets is the client's bytes.
"""

from __future__ import annotations

from flask import Response, g, request

from tasks.errors import ContextLengthExceededError
from tasks.messages import Call, Endpoint
from tasks.openai import strict_json
from tasks.openai.fields import RequestSchema
from tasks.openai.prompts import tokens_at_least
from tasks.requests.cold_start import Deferred
from tasks.requests.dispatch import Answer
from tasks.requests.routing import route
from webapp import auth, request_body, sse
from webapp.gateway import Gateway
from webapp.openai import cold_answer, request_state
from webapp.openai.following import follow, limits_of, streamed, whole
from webapp.openai.preferences import Delivery, delivery_of
from webapp.openai.priorities import priority_of
from webapp.openai.relay import Followed
from webapp.openai.resumption import NumberedAnswer
from webapp.openai.tally import DETACHED, Account, Reading, Tally
from workers.registry import ModelSpec


def serve(gateway: Gateway, endpoint: Endpoint, schema: RequestSchema) -> Response:
    """Answer the current Flask request. Raises the ServingError that ends it early."""
    raw = request_body.read(request.environ, gateway.settings.max_body_bytes)
    body = strict_json.parse(raw)
    schema.check(body)
    priority = priority_of(body, auth.priorities())
    delivery = delivery_of(request.headers, stream=bool(body.get("stream")))
    gateway.drain.refuse_new()
    way = route(gateway.registry, body["model"], endpoint, gateway.dispatcher)
    spec = way.spec
    _check_context(body, spec)
    call = Call(
        id=g.request_id,
        model=spec.id,
        endpoint=endpoint,
        body=raw,
        stream=bool(body.get("stream")),
        gateway="",
        priority=priority,
        queue_wait_s=cold_answer.queue_wait_s(delivery, spec),
        total_s=gateway.settings.total_timeout_s,
        caller=auth.caller(),
        keep_s=delivery.keep_s,
    )
    del body
    accepted_at = gateway.clock()
    terms = cold_answer.terms(delivery, gateway.settings, way)
    once = delivery.once(endpoint, raw)
    try:
        answer = gateway.dispatcher.submit(call, max_depth=spec.queue.max_depth, once=once, terms=terms)
    except Deferred as deferred:
        return cold_answer.come_again(spec.id, deferred.standing)
    # A repetition goes by the name of the request that it repeats.
    g.request_id, g.replayed = answer.request_id, answer.request_id != call.id
    response = _respond(gateway, call, delivery, answer, accepted_at)
    if call.keep_s:
        response.headers["Location"] = request_state.location(endpoint, answer.request_id)
        response.headers["X-Celerity-Request-Id"] = answer.request_id
    return response


def _respond(gateway: Gateway, call: Call, delivery: Delivery, answer: Answer, accepted_at: float) -> Response:
    if delivery.respond_async:
        return _later(gateway, call, answer, accepted_at)
    if delivery.resumable:
        numbered = NumberedAnswer(answer, is_stream=True)
        followed = _follow(gateway, call, numbered, accepted_at)
        return streamed(gateway, followed, sse.NUMBERED, progress=delivery.progress)
    followed = _follow(gateway, call, answer, accepted_at)
    if call.stream:
        return streamed(gateway, followed, sse.PLAIN, progress=delivery.progress)
    response = whole(followed)
    response.headers["openai-processing-ms"] = str(round((gateway.clock() - accepted_at) * 1000))
    return response


def _later(gateway: Gateway, call: Call, answer: Answer, accepted_at: float) -> Response:
    """Say that the request is accepted, and where it is found."""
    g.accepted = True
    answer.close()
    _account(call, answer, accepted_at).end(DETACHED, gateway.clock())
    response = request_state.response(gateway.dispatcher.find(answer.request_id, call.caller), 202)
    response.headers["Preference-Applied"] = "respond-async"
    return response


def _account(call: Call, answer: Answer, accepted_at: float) -> Account:
    if answer.request_id != call.id:
        return Reading(answer.request_id, now=accepted_at)
    return Tally(call, now=accepted_at, label=g.client_request_id)


def _follow(gateway: Gateway, call: Call, answer: Answer, accepted_at: float) -> Followed:
    return follow(
        gateway,
        answer,
        _account(call, answer, accepted_at),
        limits=limits_of(gateway, queue_wait_s=call.queue_wait_s),
        since=accepted_at,
        is_stream=call.stream,
        farewell=_farewell(call, answer.request_id),
    )


def _farewell(call: Call, request_id: str) -> str:
    """Return what a client reads when the process has to end before its answer."""
    if not call.keep_s:
        return "The server is shutting down; repeat the request."
    events = f"{request_state.location(call.endpoint, request_id)}/events"
    return f"The server is shutting down, the request goes on: reconnect with GET {events} and Last-Event-ID."


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

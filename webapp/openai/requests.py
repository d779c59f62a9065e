"""Kept requests, each below the endpoint it was posted to.

    GET    ENDPOINT/ID           how it stands
    GET    ENDPOINT/ID/events    its events, from the first or behind `Last-Event-ID`, and on live
    GET    ENDPOINT/ID/result    its answer in one piece, once it is there
    DELETE ENDPOINT/ID           cancel it

Whoever did not make the request does not learn that there is one.
"""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from tasks.errors import InvalidRequestError, RequestNotFoundError, ServiceUnavailableError
from tasks.messages import Endpoint
from tasks.requests.dispatch import Answer, RequestFacts, RequestStatus
from webapp import auth, sse
from webapp.gateway import Gateway
from webapp.openai import request_state, resumption
from webapp.openai.following import follow, limits_of, streamed, whole
from webapp.openai.preferences import wants_progress
from webapp.openai.relay import Followed
from webapp.openai.tally import Reading

_OWN_ID = re.compile(r"req_[0-9a-f]{32}")
_POLL_EVERY_S = 1
_FAREWELL = (
    "The server is shutting down, the request goes on: repeat this GET with the last event's id in Last-Event-ID."
)


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("requests", __name__)
    for endpoint in Endpoint:
        routes.register_blueprint(_routes(gateway, endpoint))
    return routes


def _routes(gateway: Gateway, endpoint: Endpoint) -> Blueprint:
    routes = Blueprint(endpoint.value, __name__, url_prefix=request_state.PATHS[endpoint])

    @routes.get("/<request_id>")
    def state(request_id: str) -> Response:
        return request_state.response(_find(gateway, endpoint, request_id))

    @routes.delete("/<request_id>")
    def cancel(request_id: str) -> Response:
        _find(gateway, endpoint, request_id)
        return request_state.response(gateway.dispatcher.cancel(request_id, auth.caller()))

    @routes.get("/<request_id>/events")
    def events(request_id: str) -> Response:
        return _events(gateway, _find(gateway, endpoint, request_id))

    @routes.get("/<request_id>/result")
    def result(request_id: str) -> Response:
        return _result(gateway, _find(gateway, endpoint, request_id))

    return routes


def _find(gateway: Gateway, endpoint: Endpoint, request_id: str) -> RequestFacts:
    if _OWN_ID.fullmatch(request_id):
        facts = gateway.dispatcher.find(request_id, auth.caller())
        if facts.endpoint is endpoint:
            return facts
    raise RequestNotFoundError("No request of this id is kept here.")


def _events(gateway: Gateway, facts: RequestFacts) -> Response:
    # The header comes from a reader that has gone on since it was given this address.
    last = request.headers.get("Last-Event-ID") or request.args.get("after", "")
    if last == sse.END:
        if facts.ended_at is None:
            raise InvalidRequestError("This answer has not ended; Last-Event-ID must be the id of an event of it.")
        nothing = Response(status=204)  # an EventSource takes it as the word to stop reconnecting
        del nothing.headers["Content-Type"]
        return nothing
    after = resumption.position(last) if last else None
    answer = resumption.NumberedAnswer(_open(gateway, facts), is_stream=facts.stream, after=after)
    progress = wants_progress(request.headers)
    return streamed(gateway, _follow(gateway, facts, answer), sse.NUMBERED, progress=progress)


def _result(gateway: Gateway, facts: RequestFacts) -> Response:
    if facts.stream:
        raise InvalidRequestError("This request was made with 'stream': true; read its events instead.")
    if facts.status in (RequestStatus.QUEUED, RequestStatus.IN_PROGRESS):
        answer = request_state.response(facts, 202)
        answer.headers["Retry-After"] = str(_POLL_EVERY_S)
        return answer
    return whole(_follow(gateway, facts, _open(gateway, facts)))


def _open(gateway: Gateway, facts: RequestFacts) -> Answer:
    if gateway.drain.began:
        raise ServiceUnavailableError(_FAREWELL)
    return gateway.dispatcher.follow(facts.id, facts.caller)


def _follow(gateway: Gateway, facts: RequestFacts, answer: Answer) -> Followed:
    spec = gateway.registry.resolve(facts.model)
    now = gateway.clock()
    return follow(
        gateway,
        answer,
        Reading(facts.id, now=now),
        limits=limits_of(gateway, queue_wait_s=spec.queue.max_wait_s if spec else gateway.settings.total_timeout_s),
        since=now,
        is_stream=facts.stream,
        farewell=_FAREWELL,
    )

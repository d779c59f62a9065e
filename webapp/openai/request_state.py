"""How a kept request looks to its client, and where it is found."""

from __future__ import annotations

import orjson
from flask import Response

from tasks.messages import Endpoint
from tasks.requests.dispatch import RequestFacts

PATHS = {
    Endpoint.CHAT: "/v1/chat/completions",
    Endpoint.COMPLETION: "/v1/completions",
    Endpoint.EMBEDDING: "/v1/embeddings",
}


def location(endpoint: Endpoint, request_id: str) -> str:
    """Return the address of the request's state; its events and its result are below it."""
    return f"{PATHS[endpoint]}/{request_id}"


def response(facts: RequestFacts, status: int = 200) -> Response:
    """Return the request as a `celerity.request` object."""
    here = location(facts.endpoint, facts.id)
    state = {
        "id": facts.id,
        "object": "celerity.request",
        "endpoint": PATHS[facts.endpoint],
        "model": facts.model,
        "stream": facts.stream,
        "status": facts.status.value,
        "created_at": int(facts.created_at),
        "ended_at": None if facts.ended_at is None else int(facts.ended_at),
        "attempts": facts.tries,
        "position": facts.position,
        "links": {"self": here, "events": f"{here}/events", "result": None if facts.stream else f"{here}/result"},
    }
    return Response(
        orjson.dumps(state), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )

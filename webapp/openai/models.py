"""GET /v1/models and /v1/models/ID: the configured models and their aliases, from memory."""

from __future__ import annotations

import time

import orjson
from flask import Blueprint, Response

from tasks.errors import ModelNotFoundError
from webapp.gateway import Gateway


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("models", __name__)
    # OpenAI's `created` is when a model was made, which nobody here knows.
    created = int(time.time())
    registry = gateway.registry
    roots = {name: name for name in registry.models} | dict(registry.aliases)
    entries = {
        name: {"id": name, "object": "model", "created": created, "owned_by": "celerity", "root": root, "parent": None}
        for name, root in roots.items()
    }
    everything = orjson.dumps({"object": "list", "data": list(entries.values())})

    @routes.get("/v1/models")
    def every_model() -> Response:
        return Response(everything, content_type="application/json")

    @routes.get("/v1/models/<path:name>")
    def one_model(name: str) -> Response:
        if name not in entries:
            raise ModelNotFoundError("There is no such model here; GET /v1/models lists those there are.")
        return Response(orjson.dumps(entries[name]), content_type="application/json")

    return routes

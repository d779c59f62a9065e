"""GET /v1/models and /v1/models/ID: the models there are and every name that leads to one, from memory."""

from __future__ import annotations

import time
from typing import Any

import orjson
from flask import Blueprint, Response

from tasks.errors import ModelNotFoundError
from webapp.gateway import Gateway
from workers.registry import Registry


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("models", __name__)
    catalogue = _Catalogue()

    @routes.get("/v1/models")
    def every_model() -> Response:
        catalogue.follow(gateway.registry)
        return Response(catalogue.everything, content_type="application/json")

    @routes.get("/v1/models/<path:name>")
    def one_model(name: str) -> Response:
        catalogue.follow(gateway.registry)
        if name not in catalogue.entries:
            raise ModelNotFoundError("There is no such model here; GET /v1/models lists those there are.")
        return Response(orjson.dumps(catalogue.entries[name]), content_type="application/json")

    return routes


class _Catalogue:
    """What one registry looks like to a client, kept until there is another one."""

    def __init__(self) -> None:
        # OpenAI's `created` is when a model was made, which nobody here knows.
        self._created = int(time.time())
        self._registry: Registry | None = None
        self.entries: dict[str, dict[str, Any]] = {}
        self.everything = b""

    def follow(self, registry: Registry) -> None:
        if registry is self._registry:
            return
        roots = {name: name for name in registry.models} | dict(registry.aliases)
        self.entries = {name: self._entry(name, root) for name, root in roots.items()}
        self.everything = orjson.dumps({"object": "list", "data": list(self.entries.values())})
        self._registry = registry

    def _entry(self, name: str, root: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "celerity",
            "root": root,
            "parent": None,
        }

"""/admin: what operators see and order. `webapp.auth` lets nobody else in.

Orders are answered with 202 and the model's entry as it is then; asking for the entry
again says what became of them.
"""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request

from tasks.errors import InvalidRequestError
from tasks.loader.operations import Operations, Ordered
from tasks.openai import strict_json
from webapp import auth, request_body
from webapp.gateway import Gateway

_MAX_BODY_BYTES = 1000


def blueprint(gateway: Gateway, operations: Operations) -> Blueprint:
    routes = Blueprint("admin", __name__, url_prefix="/admin")

    @routes.get("/status")
    def status() -> Response:
        return _json(operations.status(gateway.registry))

    @routes.get("/models/<path:name>")
    def model(name: str) -> Response:
        return _json(operations.look(gateway.registry, name).entry)

    @routes.post("/models/<path:name>/load")
    def load(name: str) -> Response:
        return ordered(operations.load(gateway.registry, name, by=auth.caller()))

    @routes.post("/models/<path:name>/unload")
    def unload(name: str) -> Response:
        return ordered(operations.unload(gateway.registry, name, by=auth.caller()))

    @routes.get("/loader")
    def loader() -> Response:
        return _json(operations.status(gateway.registry)["loader"])

    @routes.post("/loader")
    def switch() -> Response:
        """The kill switch."""
        automatic = _automatic()
        operations.switch(automatic=automatic, by=auth.caller())
        return _json({"automatic": automatic})

    def ordered(order: Ordered) -> Response:
        entry = operations.look(gateway.registry, order.model).entry
        return _json(entry | {"note": order.note}, 202)

    return routes


def _automatic() -> bool:
    fields = strict_json.parse(request_body.read(request.environ, _MAX_BODY_BYTES))
    automatic = fields.get("automatic")
    if fields.keys() != {"automatic"} or not isinstance(automatic, bool):
        raise InvalidRequestError('Send {"automatic": true} or {"automatic": false}.', param="automatic")
    return automatic


def _json(document: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(document), status=status, content_type="application/json")

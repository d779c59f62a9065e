"""POST /v1/completions."""

from __future__ import annotations

from flask import Blueprint, Response

from tasks.messages import Endpoint
from tasks.openai import schemas
from webapp.gateway import Gateway
from webapp.openai import exchange


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    def create() -> Response:
        return exchange.serve(gateway, Endpoint.COMPLETION, schemas.COMPLETION)

    return routes

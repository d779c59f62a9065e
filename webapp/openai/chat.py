"""POST /v1/chat/completions."""

from __future__ import annotations

from flask import Blueprint, Response

from tasks.messages import Endpoint
from tasks.openai import schemas
from webapp.gateway import Gateway
from webapp.openai import exchange


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    def create() -> Response:
        return exchange.serve(gateway, Endpoint.CHAT, schemas.CHAT)

    return routes

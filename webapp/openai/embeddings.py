"""POST /v1/embeddings."""

from __future__ import annotations

from flask import Blueprint, Response

from tasks.messages import Endpoint
from tasks.openai import schemas
from webapp.gateway import Gateway
from webapp.openai import exchange


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("embeddings", __name__)

    @routes.post("/v1/embeddings")
    def create() -> Response:
        return exchange.serve(gateway, Endpoint.EMBEDDING, schemas.EMBEDDING)

    return routes

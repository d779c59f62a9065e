"""The gateway's composition root: one Flask application from parts that are given."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from tasks import metrics
from tasks.bulk.desk import Desk
from tasks.errors import ServingError
from tasks.loader.operations import Operations
from tasks.records.site_metrics import SiteMetrics
from tasks.requests.dispatch import Dispatcher
from tasks.settings import Settings
from webapp import admin, auth, health, request_ids
from webapp.api_keys import KeyRing
from webapp.bulk_desk import BulkDesk, ledger_desk
from webapp.flask_app import GatewayApp
from webapp.gateway import Gateway, Registries
from webapp.openai import batches, chat, completions, embeddings, errors, files, models, requests

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    registries: Registries,
    dispatcher: Dispatcher,
    keys: KeyRing | None = None,
    desk: Callable[[], Desk] | None = None,
) -> Flask:
    """Build the application. `keys` None asks for no key: see `webapp.exposure`.

    `desk` builds what bulk work is handed in to; None: the ledger of `settings`.
    Its `Gateway` is at `app.extensions["celerity"]`.
    """
    app = GatewayApp(__name__)
    bulk = BulkDesk(desk or functools.partial(ledger_desk, settings))
    gateway = Gateway(settings=settings, registries=registries, dispatcher=dispatcher, desk=bulk)
    app.extensions["celerity"] = gateway
    app.url_map.strict_slashes = False
    # `/v1//models` is nobody's route, and a redirect would lose the body.
    app.url_map.merge_slashes = False

    # The id comes first, so that a refused key has one too.
    app.before_request(_name_request)
    auth.install(app, keys)
    for resource in (chat, completions, embeddings, requests, models, files, batches):
        app.register_blueprint(resource.blueprint(gateway))
    operations = Operations.over(settings.redis_url)
    app.register_blueprint(health.blueprint(gateway, SiteMetrics(lambda: operations.status(gateway.registry))))
    app.register_blueprint(admin.blueprint(gateway, operations))
    app.register_error_handler(ServingError, lambda error: _refuse(error, gateway.luck()))
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)
    app.after_request(_sign)
    return app


def _name_request() -> None:
    g.request_id = request_ids.new()
    g.client_request_id = request_ids.of_client(request.headers.get("X-Request-Id"))


def _sign(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    if g.client_request_id:
        response.headers["x-client-request-id"] = g.client_request_id
    if g.get("replayed"):
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _refuse(error: ServingError, luck: float) -> Response:
    if not g.get("accepted"):  # an accepted request has its own account
        metrics.REFUSED.labels(metrics.known_code(error.code)).inc()
        # Neither the path nor the field's name: both are the client's text.
        log.info(
            "request refused",
            extra={"event": "request_refused", "request": g.request_id, "route": request.endpoint, "code": error.code},
        )
    return errors.response(error, luck)


def _refuse_http(error: HTTPException) -> Response:
    status = error.code or 500
    answer = Response(errors.http_error(status)[1], status=status, content_type="application/json")
    for name, value in error.get_headers(request.environ):
        if name.lower() in ("allow", "location"):
            answer.headers[name] = value
    return answer


def _fail(error: Exception) -> Response:
    """The last resort, at the edge of the process: whatever it was, the client gets JSON and no detail."""
    log.error(
        "handler failed",
        exc_info=error,
        extra={"event": "handler_failed", "request": g.request_id, "route": request.endpoint},
    )
    return errors.response(ServingError("The server has failed; the error was logged."))

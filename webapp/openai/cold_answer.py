"""What a client gets whose model has to be loaded first, beside the answer itself."""

from __future__ import annotations

import logging

import orjson
from flask import Response, g

from tasks import metrics
from tasks.requests.cold_start import Patience, Standing, Terms
from tasks.requests.routing import Route
from tasks.settings import Settings
from webapp.openai.preferences import Delivery
from workers.registry import ModelSpec

log = logging.getLogger(__name__)

# As long as anybody waits who says that it waits, and as long as anybody stays away who says that it does not.
INSISTENT_WAIT_S = 180.0
COME_AGAIN_S = 60


def terms(delivery: Delivery, settings: Settings, way: Route) -> Terms:
    return Terms(patience=_patience(delivery, settings), stand_in=way.stand_in)


def queue_wait_s(delivery: Delivery, spec: ModelSpec) -> float:
    """Return how long the request may wait for a worker."""
    longest_s = spec.queue.max_wait_s
    return max(longest_s, INSISTENT_WAIT_S) if delivery.wait else longest_s


def come_again(model: str, standing: Standing) -> Response:
    """Say that nothing was queued, and when the model may be there."""
    g.accepted = True
    metrics.DEFERRED.labels(model).inc()
    fields = {"event": "request_deferred", "request": g.request_id, "model": model, "state": standing.state}
    log.info("request deferred", extra=fields)
    body = {
        "object": "celerity.deferred",
        "model": model,
        "status": standing.state,
        "progress": standing.progress,
        "message": f"The model is not loaded: {standing.text}. Nothing was queued; repeat the request in a minute.",
    }
    headers = {"Retry-After": str(COME_AGAIN_S), "Cache-Control": "no-store"}
    return Response(orjson.dumps(body), status=202, content_type="application/json", headers=headers)


def _patience(delivery: Delivery, settings: Settings) -> Patience:
    """Who fetches its answer later holds no connection, and has nothing to gain from coming again."""
    if delivery.wait is True:
        return Patience.INSIST
    deferring = settings.cold_start == "defer" if delivery.wait is None else not delivery.wait
    return Patience.DEFER if deferring and not delivery.respond_async else Patience.WAIT

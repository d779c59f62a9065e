"""GET /live, /health and /metrics."""

from __future__ import annotations

from flask import Blueprint, Response

from tasks import metrics
from tasks.records.site_metrics import SiteMetrics
from webapp.gateway import Gateway


def blueprint(gateway: Gateway, site: SiteMetrics) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/live")
    def live() -> dict[str, str]:
        """The process runs. A supervisor restarts it when this fails."""
        return {"status": "ok"}

    @routes.get("/health")
    def health() -> tuple[dict[str, str], int]:
        """New requests are welcome. A load balancer sends none while this fails."""
        if gateway.drain.began:
            return {"status": "draining"}, 503
        if not gateway.dispatcher.healthy():
            return {"status": "redis unreachable"}, 503
        return {"status": "ok"}, 200

    @routes.get("/metrics")
    def metrics_page() -> Response:
        return Response(metrics.render(site), content_type="text/plain; version=0.0.4; charset=utf-8")

    return routes

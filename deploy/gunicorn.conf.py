# ruff: noqa: N999, E402, PLC0415  (gunicorn's own file name; the patch comes before the imports)
"""gunicorn's settings for the gateway: `gunicorn -c deploy/gunicorn.conf.py`. All values come from CELERITY_*."""

# First, and before anything that imports ssl or redis: a late patch leaves half the
# sockets blocking. For the same reason the application is never preloaded.
from gevent import monkey

monkey.patch_all()

import os
import shutil

from gunicorn.glogging import Logger

from tasks import logs
from tasks.settings import Settings
from webapp.exposure import require_keys_beyond_loopback

settings = Settings.from_env()
require_keys_beyond_loopback(settings)


class JsonLogger(Logger):
    """gunicorn's own few lines in the format of all others."""

    def setup(self, cfg):
        super().setup(cfg)
        logs.adopt("gunicorn.error")


wsgi_app = "webapp.wsgi:create()"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.gateway_workers
worker_class = "webapp.gevent_worker.GatewayWorker"
worker_connections = settings.gateway_connections
preload_app = False
# Longer than the pools of HTTP clients keep an idle connection, and than most proxies do.
keepalive = 75
# The worker ends its streams by itself after `drain_timeout_s`; gunicorn kills only what is left then.
graceful_timeout = int(settings.drain_timeout_s) + 5
control_socket_disable = True
accesslog = None
logger_class = JsonLogger
loglevel = settings.log_level.lower()

if workers > 1:
    # Each process counts for itself; /metrics adds the files up.
    _metrics = settings.state_dir / "metrics" / str(os.getpid())
    _metrics.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics)


def child_exit(server, worker):
    if workers > 1:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)


def on_exit(server):
    if workers > 1:
        shutil.rmtree(_metrics, ignore_errors=True)

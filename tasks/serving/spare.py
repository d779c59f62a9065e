"""What an engine worker imports, before it is known which replica it will be (`workers.launcher.zygote_process`)."""

from __future__ import annotations

import importlib
import os

from tasks.app import app, take_keys

# Celery imports these when a worker boots. One that is missing here is imported by each fork, which costs
# it milliseconds and is no fault.
_AHEAD = (
    "billiard.dummy",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.app.routes",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.events.state",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.control",
    "celery.worker.strategy",
    "celery.worker.worker",
    "encodings.utf_8_sig",
    "kombu.matcher",
    "kombu.pidbox",
    "kombu.transport.redis",
    "tasks.serving.engine_worker",
    "workers.host.consumer",
    "workers.host.pool",
    "workers.host.transport",
)

for name in _AHEAD:
    importlib.import_module(name)
app.loader.import_default_modules()
app.finalize()


def forked() -> None:
    """Be the replica that the environment says, which was nobody's while all this was imported."""
    take_keys(os.environ["CELERITY_REPLICA_ID"])

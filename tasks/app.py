"""The Celery app: `celery -A tasks.app …`.

Options that hold for everybody stand in `celeryconfig.py`; what depends on this
installation (the broker, the limits) is set here from `Settings`.
"""

from __future__ import annotations

import logging

from celery import Celery
from celery.signals import setup_logging

from tasks.logs import configure
from tasks.settings import Settings
from workers.host.guards import GUARDS

settings = Settings.from_env()

app = Celery("celerity")
app.config_from_object("celeryconfig")
app.conf.broker_url = settings.broker_url
app.conf.broker_transport_options["visibility_timeout"] = settings.visibility_timeout_s
app.conf.engine_drain_s = settings.drain_timeout_s
app.steps["consumer"].update(GUARDS)


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery ships no types
def _configure_logging(**_: object) -> None:
    configure(settings.log_level)
    # Two lines a task, which say nothing that the gateway's one line does not.
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))

"""The Celery app: `celery -A tasks.app …`.

Options that hold for everybody stand in `celeryconfig.py`; what depends on this
installation (the broker, the limits) is set here from `Settings`.
"""

from __future__ import annotations

import logging
import os
import ssl

from celery import Celery
from celery.signals import setup_logging

from tasks import keys
from tasks.logs import configure
from tasks.settings import Settings
from workers.host.guards import GUARDS

settings = Settings.from_env()

app = Celery("celerity")
app.config_from_object("celeryconfig")
app.conf.broker_url = settings.broker_url


# As celeryconfig has it: nothing is given back by age.
_BY_SIGHT = {
    name: app.conf.broker_transport_options[name] for name in ("visibility_timeout", "unacked_restore_interval")
}


def take_keys(replica_id: str) -> None:
    """Use keys of this replica's own, so that what a dead worker held can be told from what live ones hold.

    It needs no result backend: no task of an engine worker has a result, and without one nothing can wait for it.
    """
    app.conf.broker_transport_options |= _BY_SIGHT | {
        "unacked_key": keys.unacked(replica_id),
        "unacked_index_key": keys.unacked_index(replica_id),
        "unacked_mutex_key": keys.unacked_mutex(replica_id),
    }
    app.conf.result_backend = None


# For the few tasks that have a result (`ignore_result=False`).
app.conf.result_backend = settings.broker_url
if settings.redis_url.startswith("rediss:") and "ssl_cert_reqs" not in settings.redis_url:
    app.conf.redis_backend_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
if own_id := os.environ.get("CELERITY_REPLICA_ID"):
    take_keys(own_id)
else:
    # Workers that are no replicas share their keys. What one of them died with, a look or an operator's order,
    # takes less than a second: by age kombu can tell that it is to be done again.
    app.conf.broker_transport_options |= {
        "visibility_timeout": 15,
        "unacked_restore_interval": 20,
        "unacked_restore_throttle": 1,
    }
app.conf.engine_drain_s = settings.drain_timeout_s
app.conf.beat_schedule["loader"]["schedule"] = settings.loader_tick_s
app.steps["consumer"].update(GUARDS)


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery ships no types
def _configure_logging(**_: object) -> None:
    configure(settings.log_level)
    # Two lines a task, which say nothing that the gateway's one line does not; and one a tick.
    for name in ("celery.app.trace", "celery.worker.strategy", "celery.beat"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))

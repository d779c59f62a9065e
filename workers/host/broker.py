"""Short commands to the broker from beside kombu: the acks of tasks that outlived their connection.

`workers` may not import `tasks`, so this is the one other place that builds a Redis
client; like `tasks.connections` it leaves none of the library's timeouts to its defaults.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_TIMEOUT_S = 2.0


def broker_client(conf: Any) -> redis.Redis:
    """Return a client for the broker of a Celery app's `conf`. The hub may wait for it, so it waits little."""
    return redis.Redis.from_url(
        conf.broker_url.replace("redis+socket://", "unix://"),
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from celeryconfig import broker_transport_options
from tests.stack import RedisServer
from tests.workers.broker_side import Side


@pytest.fixture
def side(server: RedisServer, client: redis.Redis) -> Iterator[Side]:
    app = Celery("side", broker=server.url.replace("unix://", "redis+socket://"))
    app.conf.broker_transport_options = dict(broker_transport_options)
    side = Side(app)
    yield side
    client.config_set("maxmemory", 0)
    if side.connection is not None:
        side.connection.release()
    app.close()

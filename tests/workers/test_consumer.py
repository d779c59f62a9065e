"""Our consumer's way back to a Redis that was away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.stack import RedisServer
from workers.host.consumer import SafeConsumer
from workers.host.ledger import Ledger

pytestmark = pytest.mark.integration


def test_a_redis_that_is_away_for_long_uses_up_no_channels(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    app = Celery("away", broker=server.url.replace("unix://", "redis+socket://"))
    connection = app.connection_for_read()
    trials: list[list[int]] = []

    def breathe() -> None:
        trials.append(list(connection.transport._used_channel_ids))
        if len(trials) == 20:
            server.start()

    consumer: Any = object.__new__(SafeConsumer)
    consumer.ledger, consumer.pool, consumer._lost_at, consumer._breathe = Ledger(), None, None, breathe
    try:
        assert consumer.ensure_connected(connection) is connection
        assert connection.connected
        assert trials == [[]] * 20
        assert len(connection.transport._used_channel_ids) == 1
        assert consumer._lost_at is None
    finally:
        connection.release()
        app.close()
        server.kill()

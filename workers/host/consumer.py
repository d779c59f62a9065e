"""Celery's consumer, made to survive the loss of its connection to Redis.

Stock Celery 5.7 does two things then. When only the connection dropped, closing the old
channel pushes every unacknowledged message back to its queue although its task goes on
running here, so everything in flight is executed twice. When Redis itself is down,
closing a channel whose BRPOP is pending raises an AttributeError that Celery takes for
unrecoverable: the worker exits, and a GPU reloads its model because Redis was restarted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery.worker.consumer import Consumer

from workers.host.broker import broker_client


class SafeConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Named by the Celery setting `worker_consumer`."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        transport = getattr(self.connection, "transport", None)
        for channel in list(getattr(transport, "channels", None) or ()):
            self._let_go(channel)
        super().on_connection_error_after_connected(exc)

    def _let_go(self, channel: Any) -> None:
        """Make closing `channel` neither read from the dead connection nor give anything back."""
        channel._in_poll = None
        channel.do_restore = False
        # The tasks that run on acknowledge themselves through the channel they came by.
        acks = broker_client(self.app.conf)

        @contextmanager
        def connection(client: redis.Redis | None = None) -> Iterator[redis.Redis]:
            yield client or acks

        channel.conn_or_acquire = connection

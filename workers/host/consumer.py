"""Celery's consumer, made to survive the loss of its connection to Redis.

Stock Celery 5.7 does three things then. When only the connection dropped, closing the old
channel pushes every unacknowledged message back to its queue although its task goes on
running here, so everything in flight is executed twice. When Redis itself is down,
closing a channel whose BRPOP is pending raises an AttributeError that Celery takes for
unrecoverable: the worker exits, and a GPU reloads its model because Redis was restarted.
And while it waits for Redis, longer and longer, no time limit fires and no task ends.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from workers.host.appetite import ALL_STEPS, Pull
from workers.host.ledger import Ledger
from workers.host.pool import EnginePool

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_LOSS_S = 0.25
_PUMP_S = 0.02


class SafeConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Named by the Celery setting `worker_consumer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self._lost_at: float | None = None
        super().__init__(*args, **kwargs)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes; tasks end and time limits fire meanwhile."""
        self.prepare(conn)

        def meanwhile() -> None:
            # kombu counts the channel that it could not open as open, and they are numbered.
            del conn.transport._used_channel_ids[:]
            self._breathe()

        # `meanwhile` is what waits between two trials.
        conn.ensure_connection(self._on_unreachable, interval_max=0, callback=meanwhile)
        if self._lost_at is not None:
            away_s = round(time.monotonic() - self._lost_at, 1)
            self._lost_at = None
            log.info("redis is back", extra={"event": "redis_back", "away_s": away_s})
        return conn

    def prepare(self, conn: Any) -> None:
        """Make a connection that is not yet open one of our own transport."""
        conn.transport_cls = "workers.host.transport:Transport"
        conn.ledger = self.ledger
        # A replica has keys of its own (`tasks.app.take_keys`).
        self.ledger.alone = isinstance(self.pool, EnginePool)
        conn.pull = self.pool.pull if isinstance(self.pool, EnginePool) else _one

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        self._on_unreachable(exc, 0)
        for channel in list(getattr(self.connection.transport, "channels", None) or ()):
            channel.let_go()
        with warnings.catch_warnings():
            # Celery warns at each loss that its tasks run on, which is what we want.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        # A Redis that accepts connections and then fails them must not be asked in a tight loop.
        time.sleep(_LOSS_S)

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now: it only goes into the ledger. Celery would wait for a further turn of the hub."""
        try:
            p(*args, **kwargs)
        except Exception:
            log.exception("not acknowledged", extra={"event": "acknowledge_failed"})
        return p

    def cancel_active_requests(self) -> None:
        """On SIGQUIT. Celery would cancel each task as if somebody had revoked it; ours are given to another worker."""
        if isinstance(self.pool, EnginePool):
            self.pool.hurry()

    def on_unknown_message(self, body: Any, message: Any) -> None:
        _drop(message, "not a task")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        _drop(message, "unknown task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        _drop(message, "invalid task")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        _drop(message, "cannot be decoded")

    def _on_unreachable(self, exc: Exception, interval: float) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            log.warning("redis is lost", extra={"event": "redis_lost", "reason": type(exc).__name__})

    def _breathe(self) -> None:
        """For a moment, do what the hub would do."""
        until = time.monotonic() + _RETRY_S
        while time.monotonic() < until:
            maybe_shutdown()
            # The worker of the loader and that of a node agent run Celery's solo pool, which is idle by now.
            if isinstance(self.pool, EnginePool):
                self.pool.pump()
            else:
                time.sleep(_PUMP_S)


def _one() -> Pull:
    return Pull(ALL_STEPS, 1)


def _drop(message: Any, reason: str) -> None:
    # Celery's own lines would show what the message said.
    log.warning("message dropped", extra={"event": "message_dropped", "reason": reason})
    message.ack()

"""Three guards round kombu's Redis transport, as Celery bootsteps.

Each closes a gap in which a message is in nobody's hands, or in two workers' at once.
They read and replace kombu 5.7's private names, which is why that version is pinned.
"""

from __future__ import annotations

import logging
import threading
from types import MethodType
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from workers.host.broker import broker_client

log = logging.getLogger(__name__)


class FinishPop(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Read a message that is already on its way, whatever room there is by then.

    When the room closes while a BRPOP is pending, kombu stops reading its socket: the
    message has left the queue and is not yet among the unacknowledged, so it waits for
    room to come back, and a SIGKILL meanwhile loses it. With this guard the gate only
    keeps a new BRPOP from being sent; one message too many is the price.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        gate = channel.qos.can_consume

        def can_consume(_qos: Any) -> bool:
            return bool(channel._in_poll) or gate()

        channel.qos.can_consume = MethodType(can_consume, channel.qos)


class DrainPop(bootsteps.StartStopStep):  # type: ignore[misc]
    """Give back the message that a pending BRPOP receives while the worker drains.

    Otherwise it stands in the socket, unread, until the last long answer has ended.
    """

    requires = (FinishPop,)

    def stop(self, consumer: Any) -> None:
        task_consumer = getattr(consumer, "task_consumer", None)
        if task_consumer is None or task_consumer.channel is None:
            return
        channel = task_consumer.channel
        try:
            task_consumer.cancel()
            if channel._in_poll:
                channel._brpop_read()  # at most the BRPOP's own timeout; no consumer is left, so kombu requeues
        except Exception as error:  # noqa: BLE001 - whatever kombu raises here, the message is given back or was none
            log.debug("drained: %r", error)


class KeepAlive(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tell Redis, while they run, that this worker's tasks are not lost.

    kombu gives a message to somebody else once it is older than the visibility timeout,
    counted from when it was taken. A short timeout finds a dead worker's messages soon,
    and would run every long answer twice; so a thread sets the age of the tags we hold
    back to zero. XX: a tag that was acknowledged meanwhile must not come back. It stops
    while the engine's loop hangs, so that a hung worker loses its tasks as a dead one does.
    """

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, consumer: Any) -> None:
        # Once a process, not once a connection.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(consumer,), name="keep-alive", daemon=True)
            self._thread.start()

    def terminate(self, consumer: Any) -> None:
        self._stopped.set()

    def _run(self, consumer: Any) -> None:
        options = consumer.app.conf.broker_transport_options
        client = broker_client(consumer.app.conf)
        while not self._stopped.wait(options["visibility_timeout"] / 4):
            resident = getattr(consumer.app, "resident", None)
            if resident is not None and not resident.lively():
                continue
            try:
                self._touch(client, options.get("unacked_index_key", "unacked_index"))
            except (redis.RedisError, OSError) as error:
                log.debug("not refreshed: %r", error)

    def _touch(self, client: redis.Redis, index: str) -> None:
        # The messages' own tags, not the channel's: those of a lost connection run on too.
        tags = [request.message.delivery_tag for request in tuple(state.reserved_requests)]
        if tags:
            seconds, micros = client.time()
            now = seconds + micros / 1e6
            client.zadd(index, dict.fromkeys(tags, now), xx=True)


GUARDS = (FinishPop, DrainPop, KeepAlive)

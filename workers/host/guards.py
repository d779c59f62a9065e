"""What a worker's consumer does besides Celery's own steps, as Celery bootsteps.

Each closes a gap in which a message is in nobody's hands, or the hub in Redis's.
They read and replace kombu 5.7's private names, which is why that version is pinned.
"""

from __future__ import annotations

import logging
import time
from types import MethodType
from typing import Any

import redis
from celery import bootsteps
from celery.worker.consumer.events import Events
from celery.worker.consumer.tasks import Tasks
from kombu.exceptions import OperationalError

from workers.host.monitoring import Gather, Lapse

log = logging.getLogger(__name__)

_TEND_S = 0.5
_GIVE_UP_S = 5.0


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
            return bool(channel._in_poll) or (channel.accepting() and gate())

        channel.qos.can_consume = MethodType(can_consume, channel.qos)


class DrainPop(bootsteps.StartStopStep):  # type: ignore[misc]
    """Give back the message that a pending BRPOP receives while the worker drains.

    Otherwise it stands in the socket, unread, until the last long answer has ended.
    Redis is told to end the BRPOP, which would hold up our own end for a second.
    """

    requires = (FinishPop,)

    def stop(self, consumer: Any) -> None:
        task_consumer = getattr(consumer, "task_consumer", None)
        if task_consumer is None or task_consumer.channel is None:
            return
        channel = task_consumer.channel
        try:
            task_consumer.cancel()
            channel.prompt = True
            if channel._in_poll:
                channel.end_pop()
                channel._brpop_read()  # at most the BRPOP's own timeout; no consumer is left, so kombu requeues
            channel.settle()
        except Exception as error:  # noqa: BLE001 - whatever kombu raises here, the message is given back or was none
            log.debug("drained: %r", error)


class Tend(bootsteps.StartStopStep):  # type: ignore[misc]
    """Make good twice a second what Redis could not be told, and at the end give back what is left.

    By then the pool has ended all tasks, and nobody else ever looks at what a worker
    that ended well has left behind.
    """

    requires = (FinishPop,)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        hub.timer.call_repeatedly(_TEND_S, consumer.task_consumer.channel.tend)

    def shutdown(self, consumer: Any) -> None:
        give_up = time.monotonic() + _GIVE_UP_S
        ledger = consumer.ledger
        while not self._give_back(consumer):
            if not ledger.untold:
                return
            if time.monotonic() > give_up:
                # Whoever finds this worker dead restores the unacknowledged; a gateway misses what was not noted.
                log.error(
                    "messages not given back",
                    extra={
                        "event": "messages_left",
                        "handed": len(ledger.handed),
                        "settled": len(ledger.settled),
                    },
                )
                return
            time.sleep(_TEND_S)

    def _give_back(self, consumer: Any) -> bool:
        try:
            with consumer.app.connection_for_write() as connection:
                consumer.prepare(connection)
                connection.default_channel.give_up()
        except (redis.RedisError, OSError, OperationalError) as error:
            log.debug("not given back: %r", error)
            return False
        return True


class NoRetry(bootsteps.StartStopStep):  # type: ignore[misc]
    """Send a monitoring event once: Celery would hold up the hub until Redis takes it, however long that is."""

    requires = (Events,)

    def start(self, consumer: Any) -> None:
        if dispatcher := consumer.event_dispatcher:
            send = dispatcher.send

            def once(*args: Any, **kwargs: Any) -> Any:
                return send(*args, **kwargs | {"retry": False})

            dispatcher.send = once


GUARDS = (FinishPop, DrainPop, Tend, NoRetry, Lapse, Gather)

"""Two guards round kombu's Redis transport, as Celery bootsteps.

Each closes a gap in which a message is in nobody's hands.
They read and replace kombu 5.7's private names, which is why that version is pinned.
"""

from __future__ import annotations

import logging
from types import MethodType
from typing import Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

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


GUARDS = (FinishPop, DrainPop)

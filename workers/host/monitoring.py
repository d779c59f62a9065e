"""Task events: only while somebody asks for them, and many at a time.

A monitor such as Flower switches a worker's task events on and asks again every five seconds.
Nothing in Celery switches them off when the monitor has been killed, and they cost a worker
a good part of what it does for a short answer. So what was asked for lapses here. A worker
that was started with `-E` sends them always. Heartbeats, by which a monitor tells who has
died, come oftener while it asks.

Celery sends what has come together in one turn of the hub, which is one or two events; most
of their price is that of the message. Here they wait for each other a tenth of a second.
"""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps
from celery.worker.consumer.events import Events
from celery.worker.control import Panel, control_command

# Several of a monitor's questions may be lost.
LAPSE_S = 30.0
WATCHED_BEAT_S = 5.0
_LOOK_S = 5.0
_GATHER_S = 0.1
_GATHER_MOST = 256

_stock = Panel.data["enable_events"]


@control_command(name="enable_events")  # type: ignore[untyped-decorator]  # celery ships no types
def enable_events(state: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to send task-related events for half a minute."""
    state.consumer.events_asked_at = time.monotonic()
    _beat_every(state.consumer, WATCHED_BEAT_S)
    return _stock(state, **kwargs)


class Lapse(bootsteps.StartStopStep):  # type: ignore[misc]
    """Switches task events off when nobody has asked for them of late, also across a lost connection."""

    requires = (Events,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        consumer.events_asked_at = None
        consumer.unwatched_beat_s = None
        self._timer: Any = None
        super().__init__(consumer, **kwargs)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        # Again after every reconnect, and the hub's timers outlive the connection.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.timer.call_repeatedly(_LOOK_S, lambda: look(consumer, time.monotonic()))


class Gather(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sends task events together, the last ones when the worker ends."""

    requires = (Events,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self._waiting = False
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        if (dispatcher := consumer.event_dispatcher) is None or consumer.hub is None:
            return
        self._waiting = False
        dispatcher.buffer_limit = _GATHER_MOST
        dispatcher.on_send_buffered = lambda: self._soon(consumer)

    def shutdown(self, consumer: Any) -> None:
        self._flush(consumer)

    def _soon(self, consumer: Any) -> None:
        if not self._waiting:
            self._waiting = True
            consumer.hub.timer.call_after(_GATHER_S, self._flush, (consumer,))

    def _flush(self, consumer: Any) -> None:
        self._waiting = False
        # What Redis does not take now stays in the dispatcher, and is handed to the next connection's.
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()


def look(consumer: Any, now: float) -> None:
    """Switch the task events of `consumer` off if nobody has asked for them of late; `now` is monotonic."""
    asked_at, dispatcher = consumer.events_asked_at, consumer.event_dispatcher
    if asked_at is None or dispatcher is None or now - asked_at < LAPSE_S:
        return
    consumer.events_asked_at = None
    dispatcher.groups.discard("task")
    _beat_every(consumer, consumer.unwatched_beat_s)


def _beat_every(consumer: Any, interval_s: float | None) -> None:
    """Have heartbeats come so often, and say how often that is; None: as they do."""
    heart = getattr(consumer, "heart", None)
    if heart is None or heart.tref is None or interval_s is None or heart.interval == interval_s:
        return
    consumer.unwatched_beat_s = consumer.unwatched_beat_s or heart.interval
    heart.timer.cancel(heart.tref)
    heart.interval = interval_s
    heart._send("worker-heartbeat")
    heart.tref = heart.timer.call_repeatedly(interval_s, heart._send, ("worker-heartbeat",))

"""Task events only while somebody asks for them.

A monitor such as Flower switches a worker's task events on and asks again every five seconds.
Nothing in Celery switches them off when the monitor has been killed, and they cost a worker
a good part of what it does for a short answer. So what was asked for lapses here. A worker
that was started with `-E` sends them always.
"""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps
from celery.worker.consumer.events import Events
from celery.worker.control import Panel, control_command

# Several of a monitor's questions may be lost.
LAPSE_S = 30.0
_LOOK_S = 5.0

_stock = Panel.data["enable_events"]


@control_command(name="enable_events")  # type: ignore[untyped-decorator]  # celery ships no types
def enable_events(state: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to send task-related events for half a minute."""
    state.consumer.events_asked_at = time.monotonic()
    return _stock(state, **kwargs)


class Lapse(bootsteps.StartStopStep):  # type: ignore[misc]
    """Switches task events off when nobody has asked for them of late, also across a lost connection."""

    requires = (Events,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        consumer.events_asked_at = None
        self._timer: Any = None
        super().__init__(consumer, **kwargs)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        # Again after every reconnect, and the hub's timers outlive the connection.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.timer.call_repeatedly(_LOOK_S, lambda: look(consumer, time.monotonic()))


def look(consumer: Any, now: float) -> None:
    """Switch the task events of `consumer` off if nobody has asked for them of late; `now` is monotonic."""
    asked_at, dispatcher = consumer.events_asked_at, consumer.event_dispatcher
    if asked_at is None or dispatcher is None or now - asked_at < LAPSE_S:
        return
    consumer.events_asked_at = None
    dispatcher.groups.discard("task")

"""`tasks.loader.tick`, as beat and whoever waits for a model call it."""

from __future__ import annotations

import functools
import threading
import time

import redis

from tasks.app import app, settings
from tasks.connections import command_client
from tasks.loader.tick import Loader
from tasks.records.nudge import TICK, nudge
from workers.placement.limits import Limits
from workers.registry_watch import RegistryWatch


class _Control:
    """What the control worker keeps from one tick to the next: only what could be made anew."""

    def __init__(self) -> None:
        self._client = command_client(settings.redis_url)
        self._registry = RegistryWatch(settings.models, settings.models_dir)
        self._loader = Loader(
            self._client, Limits(age_limit_s=settings.age_limit_s, bulk_age_limit_s=settings.bulk_age_limit_s)
        )
        self._alarm: threading.Timer | None = None

    def tick(self) -> str:
        self._registry.poll(time.monotonic())
        turn = self._loader.tick(self._registry.current())
        if turn.again_in_s is not None:
            self._call_again(turn.again_in_s)
        return "done" if turn.led else "somebody else is at it"

    def _call_again(self, in_s: float) -> None:
        """Have the next tick come before beat's, or though beat is dead."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = threading.Timer(in_s, self._nudge)
        self._alarm.daemon = True
        self._alarm.start()

    def _nudge(self) -> None:
        try:
            nudge(self._client)
        except (redis.RedisError, OSError):
            return  # beat's next tick sees the same


@functools.cache
def _control() -> _Control:
    return _Control()


# Nobody wants to see one every two seconds among the requests.
@app.task(name=TICK, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]  # celery ships no types
def tick() -> str:
    """Look at what is asked for and at what there is, and order what follows. Returns a word for Celery's log."""
    try:
        return _control().tick()
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return "redis is away"

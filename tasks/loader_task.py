"""`tasks.loader.tick`, as beat and gateways call it."""

from __future__ import annotations

import functools
import time

import redis

from tasks.app import app, settings
from tasks.connections import command_client
from tasks.loader import Loader
from workers.placement.limits import Limits
from workers.registry_watch import RegistryWatch

TICK = "tasks.loader.tick"


class _Control:
    """What the control worker keeps from one tick to the next: only what could be made anew."""

    def __init__(self) -> None:
        self.registry = RegistryWatch(settings.models, settings.models_dir)
        self.loader = Loader(command_client(settings.redis_url), Limits())


@functools.cache
def _control() -> _Control:
    return _Control()


@app.task(name=TICK, ignore_result=True)  # type: ignore[untyped-decorator]  # celery ships no types
def tick() -> str:
    """Look at what is asked for and at what there is, and order what follows. Returns a word for Celery's log."""
    control = _control()
    control.registry.poll(time.monotonic())
    try:
        return "done" if control.loader.tick(control.registry.current()) else "somebody else is at it"
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return "redis is away"

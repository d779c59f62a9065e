"""Beat's scheduler: it has the loader look as everybody else does, so that no two messages wait for that.

While the loader has said that nothing goes on, beat only looks whether anything is asked for.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import redis
from celery.beat import ScheduleEntry, Scheduler

from tasks.connections import command_client
from tasks.records.calm import CalmStore
from tasks.records.nudge import TICK, nudge

log = logging.getLogger(__name__)


class Ticker(Scheduler):  # type: ignore[misc]  # celery ships no types
    """Named by `beat_scheduler`. It keeps no file: there is nothing to remember.

    With stock Celery a message more would stand in the queue every two seconds for as long as no loader runs.
    """

    _lost = False

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        if entry.task != TICK:
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        try:
            if not CalmStore(self._client).holds():
                nudge(self._client)
            self._lost = False
        except (redis.RedisError, OSError) as error:
            if not self._lost:
                log.warning("the loader cannot be asked", extra={"event": "redis_lost", "reason": type(error).__name__})
            self._lost = True
        return None

    @functools.cached_property
    def _client(self) -> redis.Redis:
        from tasks.app import settings  # noqa: PLC0415 - beat names this module while it configures that one

        return command_client(settings.redis_url)

"""For what has to reach Redis however long that takes: a claim, what became of a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_RETRY_S = 0.2


async def until_told(command: Callable[[], Awaitable[_T]]) -> _T:
    """Return what `command` does, tried again until Redis is there and takes it. It must do no harm when repeated.

    Ends early only by cancellation, or by an error that is not Redis': what cannot be sent will never be taken.
    """
    while True:
        try:
            return await command()
        except redis.DataError:
            raise
        except (redis.RedisError, OSError) as error:
            log.debug("redis was not told yet: %r", error)
            await asyncio.sleep(_RETRY_S)

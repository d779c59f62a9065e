"""The feeder's bell: whoever hands something in, or cancels it, rings."""

from __future__ import annotations

import logging

import redis

from tasks import keys

log = logging.getLogger(__name__)

# Whoever reads it looks at all there is, so that one entry would do.
_LENGTH = 100


def wake(client: redis.Redis, batch_id: str) -> None:
    """Tell the feeder to look now. That Redis is out of reach fails nobody: it looks by itself within three seconds."""
    try:
        with client.pipeline(transaction=True) as commands:
            commands.xadd(keys.BULK_WAKE, {"batch": batch_id}, maxlen=_LENGTH, approximate=True)
            commands.expire(keys.BULK_WAKE, keys.BULK_WAKE_TTL_S)
            commands.execute()
    except redis.RedisError as error:
        log.info("feeder not woken", extra={"event": "bulk_wake_failed", "error": type(error).__name__})

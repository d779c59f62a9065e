"""The only place that builds a Redis client, since the library's defaults do not suit us.

redis-py 8 gives up a read after 5 s, repeats a command 10 times (also one that must
not run twice) and keeps at most 100 connections. Each kind of client below states its
own numbers; a test fails on a client built anywhere else.
"""

from __future__ import annotations

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_TIMEOUT_S = 3.0
COMMAND_TIMEOUT_S = 5.0
COMMAND_CONNECTIONS = 32
POOL_TIMEOUT_S = 3.0
# Longest server-side wait of a blocking read. Its socket timeout must be longer, or
# every quiet read would end in an error.
BLOCK_MS = 5000
_ANSWER_S = 3.0


def refuses_writes(error: Exception) -> bool:
    """Say whether Redis has answered that it takes no writes: its memory or its disk is full, or it is a replica.

    redis-py has classes for two of these, whose texts then lack their first word.
    """
    classes = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
    return isinstance(error, classes) or (isinstance(error, redis.ResponseError) and "MISCONF" in str(error))


def command_client(url: str) -> redis.Redis:
    """Return a client for short commands from many greenlets. It repeats nothing by itself.

    A command takes a fraction of a millisecond and a new connection twenty times that, so
    few connections serve many; beyond them a command waits, and then fails as if Redis
    were out of reach.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        socket_timeout=COMMAND_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
        max_connections=COMMAND_CONNECTIONS,
        timeout=POOL_TIMEOUT_S,
    )
    return redis.Redis.from_pool(pool)


def blocking_client(url: str) -> redis.Redis:
    """Return a client for one reader that blocks up to `BLOCK_MS` at a time."""
    return redis.Redis.from_url(
        url,
        socket_timeout=BLOCK_MS / 1000 + _ANSWER_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=4,
    )


def async_client(url: str) -> redis.asyncio.Redis:
    """Return a client for short commands from the coroutines of one engine worker."""
    return _async_client(url, COMMAND_TIMEOUT_S)


def async_blocking_client(url: str) -> redis.asyncio.Redis:
    """Return a client for one coroutine that blocks up to `BLOCK_MS` at a time."""
    return _async_client(url, BLOCK_MS / 1000 + _ANSWER_S)


def _async_client(url: str, timeout_s: float) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=15,
        retry=AsyncRetry(NoBackoff(), 0),
        max_connections=10_000,
    )

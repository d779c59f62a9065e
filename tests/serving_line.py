"""A worker's two ways to Redis, for tests of what uses them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import redis.asyncio

from tasks.connections import async_client
from tasks.serving.line import Line


@contextlib.asynccontextmanager
async def client_and_line(url: str) -> AsyncIterator[tuple[redis.asyncio.Redis, Line]]:
    client = async_client(url)
    line = Line(client)
    try:
        yield client, line
    finally:
        await line.close()
        await client.aclose()

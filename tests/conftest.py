"""A Redis of its own for every module that asks for one, empty at the beginning of each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tasks.connections import command_client
from tests.stack import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    client = command_client(server.url)
    client.flushall()
    yield client
    client.close()

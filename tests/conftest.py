"""A Redis of its own for every module that asks for one, empty at the beginning of each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks.connections import command_client
from tests import postgres_server
from tests.postgres_server import PostgresServer
from tests.stack import RedisServer


@pytest.fixture(scope="module", autouse=True)
def _temporary_folder() -> Iterator[None]:
    """An engine that a test runs in this process names a folder of its own for what it starts, and removes it."""
    before = os.environ.get("TMPDIR")
    yield
    if before is not None:
        os.environ["TMPDIR"] = before
    else:
        os.environ.pop("TMPDIR", None)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, for whoever asks for it; see `tests.postgres_server`."""
    with postgres_server.server() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bulk' / 'ledger.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url

"""Fixtures over real parts, and the check that no test leaves a key behind that lives for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import keys
from tests.stack import Stack, Worker, stack

MODELS = """
models:
  sim:
    engine: sim
    sim: {seats: 64}
  slow:
    engine: sim
    sim: {itl_ms: 20, seats: 2}
  nobody:
    engine: sim
    queue: {max_depth: 2}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Redis for the module's tests."""
    folder: Path = tmp_path_factory.mktemp("stack")
    with stack(folder, MODELS, CELERITY_DRAIN_TIMEOUT_S="20") as started:
        yield started


@pytest.fixture(scope="module")
def sim(running: Stack) -> Worker:
    return running.worker("sim")


@pytest.fixture(autouse=True)
def no_key_lives_for_ever(running: Stack) -> Iterator[None]:
    yield
    client = running.client()
    names = [name.decode() for name in client.scan_iter()]
    client_free = [
        name
        for name in names
        if client.ttl(name) == -1 and name not in keys.FOR_EVER and not name.startswith(keys.KOMBU_PREFIXES)
    ]
    client.close()
    assert not client_free, f"keys without a TTL: {client_free}"

"""A worker whose engine keeps failing takes nothing for a while; the only one serves on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import keys
from tasks.gateway.redis_dispatch import RedisDispatcher
from tasks.messages import Done, Failed
from tasks.records.circuit import FAILURES
from tests.stack import Stack, Worker, chat, read, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  slow:
    engine: sim
    sim: {itl_ms: 1, seats: 8, faults: true}
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, MODELS) as started:
        yield started


def ask(dispatcher: RedisDispatcher, text: str = "x") -> Done | Failed:
    last = read(dispatcher.submit(chat(text, model="slow", gateway=dispatcher.gateway_id), max_depth=99))[-1]
    assert isinstance(last, Done | Failed)
    return last


def rotation(running: Stack, worker: Worker) -> str:
    client = running.client()
    found = client.hget(keys.replica(worker.replica_id), "rotation")
    client.close()
    return found.decode() if isinstance(found, bytes) else ""


def test_the_only_worker_says_that_it_is_degraded_and_serves_on(running: Stack) -> None:
    worker, dispatcher = running.worker("slow"), running.dispatcher()
    for _ in range(FAILURES):
        assert isinstance(ask(dispatcher, "!error"), Failed)
    wait_until(lambda: rotation(running, worker) == "last", "the worker to find itself the last")
    assert "circuit_last_replica" in worker.log.read_text()
    assert isinstance(ask(dispatcher), Done)
    wait_until(lambda: rotation(running, worker) == "in", "one good answer to make up for it")


def test_of_two_one_steps_aside_and_comes_back(running: Stack) -> None:
    workers = [running.worker("slow"), running.worker("slow")]
    dispatcher = running.dispatcher()

    def someone(where: str) -> bool:
        return where in {rotation(running, worker) for worker in workers}

    for _ in range(FAILURES * 4):
        assert isinstance(ask(dispatcher, "!error"), Failed)
        if someone("out"):
            break
    wait_until(lambda: someone("out"), "one worker to leave")

    def healed() -> bool:
        assert isinstance(ask(dispatcher), Done)
        return not someone("out")

    wait_until(healed, "its probe to be answered")

"""However a worker is told to stop, it ends well and leaves no message behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import redis

from tasks import keys
from tasks.messages import Done, Started
from tests.stack import Stack, Worker, chat, read, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  slow:
    engine: sim
    sim: {itl_ms: 20, seats: 8}
  lazy:
    engine: sim
    sim: {load_s: 60}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("end")
    with stack(folder, MODELS, CELERITY_DRAIN_TIMEOUT_S="20") as started:
        yield started


@pytest.fixture
def client(running: Stack) -> Iterator[redis.Redis]:
    with contextlib.closing(running.client()) as client:
        yield client


def left(client: redis.Redis, worker: Worker) -> int:
    return int(client.exists(keys.unacked(worker.replica_id), keys.unacked_index(worker.replica_id)))


def end(worker: Worker, signals: Sequence[signal.Signals]) -> int:
    """Send the signals, each when the one before was heard, and return the exit code."""
    for number, sig in enumerate(signals, 1):
        worker.process.send_signal(sig)
        wait_until(partial(_heard, worker, number), "the signal to be heard")
    return worker.process.wait(60)


def _heard(worker: Worker, count: int) -> bool:
    said = worker.log.read_text().count("shutdown (MainProcess)")
    return said >= count or worker.process.poll() is not None


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGTERM],
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGQUIT],
        [signal.SIGTERM, signal.SIGQUIT],
    ],
    ids=lambda signals: "-".join(sig.name for sig in signals),
)
def test_an_answer_is_finished_here_or_by_another(
    running: Stack, client: redis.Redis, signals: list[signal.Signals]
) -> None:
    dispatcher = running.dispatcher()
    worker = running.worker("slow")
    answer = dispatcher.submit(
        chat("x", model="slow", max_tokens=100, stream=False, gateway=dispatcher.gateway_id), max_depth=9
    )
    assert isinstance(answer.next(10), Started)
    assert end(worker, signals) == 0
    assert left(client, worker) == 0
    other = running.worker("slow")
    assert isinstance(read(answer)[-1], Done)
    assert other.terminate() == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_still_loads_ends_at_once(running: Stack, client: redis.Redis, sig: signal.Signals) -> None:
    worker = running.launch("lazy")
    wait_until(lambda: client.exists(keys.replica(worker.replica_id)), "the worker to load")
    worker.process.send_signal(sig)
    assert worker.process.wait(20) == 0
    assert left(client, worker) == 0


def test_a_worker_ends_well_without_redis(tmp_path: Path) -> None:
    with stack(tmp_path, MODELS) as running:
        worker = running.worker("slow")
        running.server.kill()
        wait_until(lambda: "redis is lost" in worker.log.read_text(), "the worker to notice")
        assert worker.terminate() == 0
        # And one that has never seen it.
        late = running.launch("slow")
        wait_until(lambda: "redis is lost" in late.log.read_text(), "the worker to look for redis")
        assert late.terminate() == 0
        running.server.start()

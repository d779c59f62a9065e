"""The connection to Redis goes, or Redis itself: no worker ends, nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import keys
from tasks.envelope import INFER
from tasks.errors import ServiceUnavailableError
from tasks.messages import Delta, Done, Started
from tests.stack import Stack, chat, read, stack, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  slow:
    engine: sim
    sim: {itl_ms: 20, seats: 8}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("loss")
    with stack(folder, MODELS) as started:
        started.server.appendonly = True
        started.server.stop()
        started.server.start()
        yield started


def test_a_dropped_connection_neither_repeats_nor_loses_what_runs(running: Stack) -> None:
    worker = running.worker("slow")
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(
        chat("x", model="slow", stream=False, max_tokens=100, gateway=dispatcher.gateway_id), max_depth=9
    )
    assert isinstance(answer.next(10), Started)
    client = running.client()
    for connection in client.client_list():
        if connection["id"] != str(client.client_id()):
            client.client_kill_filter(_id=connection["id"])
    events = read(answer)
    assert isinstance(events[-1], Done)
    wait_until(lambda: client.hlen(keys.unacked(worker.replica_id)) == 0, "the late ack")
    assert running.celery("inspect", "stats")["total"] == {INFER: 1}
    # The same worker, without a new load, takes the next request.
    assert worker.process.poll() is None
    again = read(dispatcher.submit(chat("y", model="slow", gateway=dispatcher.gateway_id), max_depth=9))
    assert isinstance(again[-1], Done)
    assert worker.terminate() == 0
    client.close()


def test_a_restart_of_redis_costs_no_worker_its_model(running: Stack) -> None:
    worker = running.worker("slow")
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("x", model="slow", max_tokens=150, gateway=dispatcher.gateway_id), max_depth=9)
    assert isinstance(answer.next(10), Started)
    running.server.kill()
    running.server.start()
    # With its append-only file Redis still has the stream: the answer goes on where it was.
    events = read(answer)
    assert isinstance(events[-1], Done)
    assert [int(word.split(".")[1]) for word in text_of(events).split()] == list(range(150))
    again = read(dispatcher.submit(chat("y", model="slow", gateway=dispatcher.gateway_id), max_depth=9))
    assert isinstance(again[-1], Done)
    assert worker.process.poll() is None
    assert worker.terminate() == 0


@pytest.mark.parametrize("stream", [True, False])
def test_what_redis_forgot_is_asked_again_only_if_nothing_was_sent(running: Stack, stream: bool) -> None:
    worker = running.worker("slow")
    dispatcher = running.dispatcher()
    call = chat("x", model="slow", stream=stream, max_tokens=300, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=9)
    assert isinstance(answer.next(10), Started)
    if stream:
        assert isinstance(answer.next(10), Delta)
    running.server.kill()
    for file in (running.server.folder / "appendonlydir").glob("*"):
        file.unlink()
    (running.server.folder / "appendonly.aof").unlink(missing_ok=True)
    running.server.start()
    if stream:
        with pytest.raises(ServiceUnavailableError):
            read(answer)
    else:
        assert isinstance(read(answer)[-1], Done)
    again = read(dispatcher.submit(chat("y", model="slow", gateway=dispatcher.gateway_id), max_depth=9))
    assert isinstance(again[-1], Done)
    assert worker.terminate() == 0

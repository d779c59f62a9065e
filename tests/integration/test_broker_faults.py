"""Redis is full, silent or cut off, and its queues hold rubbish: the worker stays, and answers what it was asked."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.envelope import INFER
from tasks.errors import ServiceUnavailableError
from tasks.messages import Done, Started
from tests.faults.proxy import Proxy
from tests.stack import Stack, Worker, chat, free_port, read, stack, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

QUEUE = "model.slow"
MODELS = """
models:
  slow:
    engine: sim
    sim: {itl_ms: 20, seats: 8}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("faults")
    with stack(folder, MODELS) as started:
        started.server.stop()
        started.server.port = free_port()
        started.server.start()
        yield started


@pytest.fixture
def client(running: Stack) -> Iterator[redis.Redis]:
    client = running.client()
    yield client
    client.close()


@pytest.fixture
def worker(running: Stack) -> Iterator[Worker]:
    worker = running.worker("slow")
    yield worker
    assert worker.process.poll() is None
    assert worker.terminate() == 0


def events(worker: Worker, name: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == name]


def answers(running: Stack) -> None:
    """The model can be asked, and says all of it."""
    dispatcher = running.dispatcher()
    said = read(dispatcher.submit(chat("x", model="slow", gateway=dispatcher.gateway_id), max_depth=9))
    assert isinstance(said[-1], Done)
    assert len(text_of(said).split()) == 8


def crooked(**other: object) -> bytes:
    """Return a message that is right but for `other`."""
    right: dict[str, object] = {
        "body": "[[],{},{}]",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": INFER, "id": "x"},
        "properties": {
            "delivery_tag": "t",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "body_encoding": "utf-8",
        },
    }
    return json.dumps(right | other).encode()


RUBBISH = [
    b"\xff\xfe",
    b"{",
    b"[]",
    b"null",
    b"{}",
    crooked(headers=None),
    crooked(headers=[]),
    crooked(headers={"task": INFER}),
    crooked(headers={"task": ["a"], "id": "x"}),
    crooked(headers={"task": INFER, "id": ["x"]}),
    crooked(headers={"task": "tasks.nothing", "id": "x"}),
    crooked(headers={"task": INFER, "id": "x", "timelimit": "soon"}),
    crooked(headers={"task": INFER, "id": "x", "eta": "soon"}),
    crooked(headers={"task": INFER, "id": "x", "expires": {}}),
    crooked(properties=None),
    crooked(properties={}),
    crooked(body=5),
    crooked(body="[]"),
    crooked(body="{{"),
    crooked(**{"content-type": "application/x-python-serialize"}),
    crooked(**{"content-encoding": "no-such"}),
]


def test_rubbish_costs_a_line_each_and_nothing_else(running: Stack, client: redis.Redis, worker: Worker) -> None:
    client.lpush(QUEUE, *RUBBISH)
    wait_until(lambda: client.llen(QUEUE) == 0, "the rubbish to be taken")
    answers(running)
    wait_until(lambda: client.hlen(keys.unacked(worker.replica_id)) == 0, "nothing to be left of it")
    loud = [
        line for line in worker.log.read_text().splitlines() if line.startswith("{") and '"level":"info"' not in line
    ]
    assert len(loud) <= len(RUBBISH)


def test_a_queue_that_is_no_list_is_waited_for(running: Stack, client: redis.Redis, worker: Worker) -> None:
    client.set(QUEUE, "not a list")
    wait_until(lambda: events(worker, "redis_refuses"), "the worker to be refused")
    client.delete(QUEUE)
    answers(running)


def test_a_full_redis_loses_no_message_and_ends_no_worker(running: Stack, client: redis.Redis, worker: Worker) -> None:
    dispatcher = running.dispatcher()
    # The message goes to the worker's socket, and Redis is full before the worker can take note of it.
    worker.process.send_signal(signal.SIGSTOP)
    answer = dispatcher.submit(chat("x", model="slow", gateway=dispatcher.gateway_id), max_depth=9)
    wait_until(lambda: client.llen(QUEUE) == 0, "redis to hand the message out")
    client.config_set("maxmemory", 1)
    worker.process.send_signal(signal.SIGCONT)
    wait_until(lambda: events(worker, "redis_refuses"), "the worker to be refused")
    client.config_set("maxmemory", 0)
    assert isinstance(read(answer)[-1], Done)
    wait_until(lambda: client.hlen(keys.unacked(worker.replica_id)) == 0, "the acknowledgement")
    assert len(events(worker, "redis_refuses")) == 1


def test_a_full_redis_ends_what_had_begun_and_nothing_of_it_stays(
    running: Stack, client: redis.Redis, worker: Worker
) -> None:
    dispatcher = running.dispatcher()
    call = chat("x", model="slow", max_tokens=3000, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=9)
    assert isinstance(answer.next(10), Started)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServiceUnavailableError, match="memory or disk is full"):
            read(answer)
    finally:
        client.config_set("maxmemory", 0)
    wait_until(lambda: not client.exists(keys.request(call.id), keys.held(worker.replica_id)), "the call to be dropped")
    answers(running)


@contextlib.contextmanager
def frozen(running: Stack) -> Iterator[None]:
    assert running.server.process is not None
    running.server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.server.process.send_signal(signal.SIGCONT)


def test_a_redis_that_stood_still_gets_every_answer_once(running: Stack, client: redis.Redis, worker: Worker) -> None:
    dispatcher = running.dispatcher()
    asked = [chat("x", model="slow", max_tokens=50, gateway=dispatcher.gateway_id) for _ in range(3)]
    open_answers = [dispatcher.submit(call, max_depth=9) for call in asked]
    for answer in open_answers:
        assert isinstance(answer.next(10), Started)
    with frozen(running):
        wait_until(lambda: "dropping stale connection" in worker.log.read_text(), "the worker to notice")
    for answer in open_answers:
        said = read(answer)
        assert isinstance(said[-1], Done)
        assert [int(word.split(".")[1]) for word in text_of(said).split()] == list(range(50))
    answers(running)
    wait_until(lambda: client.hlen(keys.unacked(worker.replica_id)) == 0, "every acknowledgement")


@pytest.fixture
def proxy(running: Stack) -> Iterator[Proxy]:
    proxy = Proxy(running.server.port, 1)
    yield proxy
    proxy.close()


def test_a_cut_connection_is_noticed_and_replaced(running: Stack, client: redis.Redis, proxy: Proxy) -> None:
    cut_off = running.worker("slow", CELERITY_REDIS_URL=f"redis://127.0.0.1:{proxy.ports[0]}/0")
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("x", model="slow", max_tokens=50, gateway=dispatcher.gateway_id), max_depth=9)
    assert isinstance(answer.next(10), Started)
    proxy.order("drop")  # no RST, no FIN: only silence tells
    wait_until(lambda: "dropping stale connection" in cut_off.log.read_text(), "the worker to notice")
    proxy.order("pass")
    assert isinstance(read(answer)[-1], Done)
    answers(running)
    wait_until(lambda: client.hlen(keys.unacked(cut_off.replica_id)) == 0, "every acknowledgement")
    assert cut_off.terminate() == 0

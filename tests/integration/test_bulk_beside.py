"""Bulk work beside interactive work, on real workers: who gets the seats."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.messages import Call, Done, Started
from tasks.queues import Priority, model_queue, queue_list
from tasks.requests.request_store import Queued, RequestStore
from tests.stack import Stack, Worker, chat, read, stack, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

# 20 seats: one stays free of bulk work, and one is its own.
MODELS = """
models:
  many:
    engine: sim
    sim: {itl_ms: 20, seats: 20}
  few:
    engine: sim
    sim: {itl_ms: 20, seats: 4}
"""
LONG = 100_000


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, MODELS, CELERITY_DRAIN_TIMEOUT_S="1") as started:
        # As the server that `celerity up` starts.
        with contextlib.closing(started.client()) as client:
            client.config_set("appendonly", "yes")
        started.server.appendonly = True
        yield started


@pytest.fixture
def client(running: Stack) -> Iterator[redis.Redis]:
    client = running.client()
    yield client
    client.close()


def bulk(
    client: redis.Redis, model: str, count: int, *, max_tokens: int = LONG, stream: bool = False, form: str = "text"
) -> list[Call]:
    """Queue bulk calls as the feeder does: kept, and nobody's."""
    store = RequestStore(client)
    calls = []
    for index in range(count):
        call = chat(
            f"bulk {index}",
            model=model,
            stream=stream,
            max_tokens=max_tokens,
            gateway="",
            priority=Priority.BULK,
            response_format=form,
            keep_s=600,
        )
        assert store.admit(call, gateway_id="feeder", max_depth=-1) == Queued()
        calls.append(call)
    return calls


def held(client: redis.Redis, calls: list[Call], worker: Worker | None = None) -> list[Call]:
    """Return those of `calls` that a worker has."""
    found = []
    for call in calls:
        replica: Any = client.hget(keys.request(call.id), "replica")
        if replica and (worker is None or replica.decode() == worker.replica_id):
            found.append(call)
    return found


def waiting(client: redis.Redis, model: str) -> list[str]:
    """Return the bulk calls that wait, the next one first."""
    raw: Any = client.lrange(queue_list(model_queue(model), Priority.BULK), 0, -1)
    return [json.loads(one)["headers"]["id"] for one in reversed(raw)]


def ended(client: redis.Redis, calls: list[Call]) -> int:
    return sum(client.hget(keys.request(call.id), "ended") == b"completed" for call in calls)


def starts(client: redis.Redis, call: Call) -> int:
    records: Any = client.xrange(keys.stream(call.id))
    return sum(fields[b"k"] == b"started" for _, fields in records)


def ask(running: Stack, model: str, max_tokens: int = 3) -> list[Any]:
    dispatcher = running.dispatcher()
    call = chat("now", model=model, max_tokens=max_tokens, gateway=dispatcher.gateway_id)
    return list(read(dispatcher.submit(call, max_depth=99)))


def test_bulk_work_leaves_a_seat_free_and_takes_over_what_it_frees(running: Stack, client: redis.Redis) -> None:
    worker = running.worker("many")
    calls = bulk(client, "many", 60, max_tokens=20)
    assert isinstance(ask(running, "many")[-1], Done)
    wait_until(lambda: ended(client, calls) == 60, "all bulk work to be done")
    long = bulk(client, "many", 25)
    wait_until(lambda: len(held(client, long)) == 19, "all seats but one to be taken")
    assert isinstance(ask(running, "many")[-1], Done)
    assert len(held(client, long)) == 19
    assert all(starts(client, call) == 1 for call in held(client, long))
    pool = running.celery("inspect", "stats")["pool"]
    assert pool["held"] == {"interactive": 0, "bulk": 19}
    assert pool["engine"]["seats"] == 20
    worker.kill()


def test_an_interactive_request_that_finds_all_seats_taken_is_given_one(running: Stack, client: redis.Redis) -> None:
    running.worker("few")
    calls = bulk(client, "few", 6)
    wait_until(lambda: len(held(client, calls)) == 4, "all seats to be taken")
    oldest = held(client, calls)[0]
    assert isinstance(ask(running, "few")[-1], Done)
    wait_until(lambda: len(held(client, calls)) == 4, "bulk work to have the seat again")
    # The one that was put back stands in front of those that never ran, and was the youngest.
    assert starts(client, oldest) == 1
    again = [call for call in calls if starts(client, call) == 2]
    assert [call.id for call in again] == [calls[3].id]
    assert client.hmget(keys.request(calls[3].id), "deaths", "migrations") == [b"0", b"0"]


def test_as_many_give_way_as_wait_and_bulk_work_keeps_its_share(running: Stack, client: redis.Redis) -> None:
    running.worker("few")
    calls = bulk(client, "few", 4)
    wait_until(lambda: len(held(client, calls)) == 4, "all seats to be taken")
    dispatcher = running.dispatcher()
    answers = [
        dispatcher.submit(chat("x", model="few", max_tokens=LONG, gateway=dispatcher.gateway_id), max_depth=99)
        for _ in range(5)
    ]
    for answer in answers[:3]:
        assert isinstance(answer.next(10), Started)
    put_back = {call.id for call in calls[1:]}
    wait_until(lambda: set(waiting(client, "few")) == put_back, "three to have been put back")
    assert running.waiting("few") == 2
    assert held(client, calls) == calls[:1]
    # When the first of them leaves, the two that wait go before bulk work that is over its share.
    answers[0].close()
    assert isinstance(answers[3].next(10), Started)
    assert held(client, calls) == calls[:1]
    for answer in answers:
        answer.close()
    wait_until(lambda: len(held(client, calls)) == 4, "bulk work to have all seats again")


def test_bulk_work_gets_its_share_of_an_engine_that_is_full_of_interactive_work(
    running: Stack, client: redis.Redis
) -> None:
    running.worker("few")
    dispatcher = running.dispatcher()
    answers = [
        dispatcher.submit(chat("x", model="few", max_tokens=LONG, gateway=dispatcher.gateway_id), max_depth=99)
        for _ in range(6)
    ]
    for answer in answers[:4]:
        assert isinstance(answer.next(10), Started)
    calls = bulk(client, "few", 2)
    answers[0].close()
    wait_until(lambda: len(held(client, calls)) == 1, "bulk work to be given the seat that came free")
    assert running.waiting("few") == 2
    for answer in answers:
        answer.close()


def test_a_stream_that_nobody_can_go_on_with_is_not_put_back(running: Stack, client: redis.Redis) -> None:
    running.worker("few")
    calls = bulk(client, "few", 1)
    wait_until(lambda: len(held(client, calls)) == 1, "the first to be taken")
    calls += bulk(client, "few", 3, stream=True, form="json_object")
    wait_until(lambda: all(client.xlen(keys.stream(call.id)) > 2 for call in calls[1:]), "the others to have begun")
    assert isinstance(ask(running, "few")[-1], Done)
    wait_until(lambda: len(held(client, calls)) == 4, "bulk work to have the seat again")
    assert [starts(client, call) for call in calls] == [2, 1, 1, 1]


def test_two_replicas_together_put_back_one_for_each_that_waits(running: Stack, client: redis.Redis) -> None:
    for _ in range(2):
        running.worker("few")
    calls = bulk(client, "few", 8)
    wait_until(lambda: len(held(client, calls)) == 8, "all seats of both to be taken")
    assert isinstance(ask(running, "few", max_tokens=50)[-1], Done)
    wait_until(lambda: len(held(client, calls)) == 8, "bulk work to have the seat again")
    assert sum(starts(client, call) for call in calls) == 9


def test_a_worker_without_bulk_work_asks_nothing(running: Stack, client: redis.Redis) -> None:
    worker = running.worker("few")
    dispatcher = running.dispatcher()
    calls = [chat("x", model="few", max_tokens=LONG, gateway=dispatcher.gateway_id) for _ in range(6)]
    answers = [dispatcher.submit(call, max_depth=99) for call in calls]
    for answer in answers[:4]:
        assert isinstance(answer.next(10), Started)
    lengths = _calls(client, "llen")
    beats = _calls(client, "zadd")
    wait_until(lambda: _calls(client, "zadd") > beats + 4, "its heart to beat")
    assert _calls(client, "llen") == lengths
    for answer in answers:
        answer.close()
    assert worker.terminate() == 0


def _calls(client: redis.Redis, command: str) -> int:
    stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("fault", ["killed", "redis restarted"])
def test_nothing_is_lost_or_done_twice_when_a_fault_meets_the_putting_back(
    running: Stack, client: redis.Redis, fault: str
) -> None:
    running.worker("few")
    victim = running.worker("few")
    calls = bulk(client, "few", 30, max_tokens=40, stream=True)
    wait_until(lambda: len(held(client, calls)) == 8, "all seats to be taken")
    dispatcher = running.dispatcher()
    answers = [
        dispatcher.submit(chat("x", model="few", max_tokens=20, gateway=dispatcher.gateway_id), max_depth=99)
        for _ in range(6)
    ]
    wait_until(lambda: client.zcard(keys.yielding("few")) > 0, "way to be given")
    if fault == "killed":
        victim.kill()
    else:
        running.server.kill()
        running.server.start()
    for answer in answers:
        events = read(answer)
        assert isinstance(events[-1], Done)
        assert text_of(events).split()[-1].endswith(".19")
    wait_until(lambda: ended(client, calls) == 30, "all bulk work to be done", timeout_s=60)
    for call in calls:
        records: Any = client.xrange(keys.stream(call.id))
        kinds = [fields[b"k"] for _, fields in records]
        assert kinds.count(b"done") == 1
        assert kinds[-1] == b"done"
        words = b"".join(fields.get(b"f", b"") for _, fields in records).count(b'"content":"')
        assert words in {40, 41}
    wait_until(lambda: running.taken() == 0, "nothing to be held")

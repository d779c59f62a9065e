"""A worker dies or hangs with work in its hands: another goes on, from where it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import keys
from tasks.connections import command_client
from tasks.messages import Delta, Done, Event, Failed, Started
from tasks.requests.dispatch import RequestStatus
from tests.stack import Stack, Worker, chat, read, stack, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  slow:
    engine: sim
    sim: {itl_ms: 20, seats: 8, faults: true}
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, MODELS, CELERITY_DRAIN_TIMEOUT_S="1") as started:
        yield started


def victim_of(running: Stack, started: Event | None) -> Worker:
    assert isinstance(started, Started)
    return next(worker for worker in running.workers if worker.replica_id == started.replica)


def words(events: list[Event]) -> list[int]:
    return [int(word.split(".")[1]) for word in text_of(events).split()]


@pytest.mark.parametrize("fault", ["killed", "stopped", "drained"])
def test_a_stream_goes_on_where_its_worker_was_lost(running: Stack, fault: str) -> None:
    for _ in range(2):
        running.worker("slow")
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("on", model="slow", max_tokens=200, gateway=dispatcher.gateway_id), max_depth=9)
    events = [answer.next(10), answer.next(10)]
    victim = victim_of(running, events[0])
    match fault:
        case "killed":
            victim.kill()
        case "stopped":
            victim.process.send_signal(signal.SIGSTOP)
        case _:
            assert victim.terminate() == 0
    events += read(answer)
    if fault == "stopped":
        victim.process.send_signal(signal.SIGCONT)
    got = [event for event in events if event is not None]
    started = [event for event in got if isinstance(event, Started)]
    assert len(started) == 2
    assert started[1].after
    assert words(got) == list(range(200))
    assert b"".join(event.frames for event in got if isinstance(event, Delta)).count(b'"role"') == 1
    assert isinstance(got[-1], Done)
    assert got[-1].completion_tokens == 200
    wait_until(lambda: running.taken() == 0 and running.waiting("slow") == 0, "nothing to be left")


def test_what_was_not_begun_is_begun_again(running: Stack) -> None:
    running.worker("slow")
    dispatcher = running.dispatcher()
    call = chat("again", model="slow", stream=False, max_tokens=50, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=10)
    victim_of(running, answer.next(10)).kill()
    running.worker("slow")
    events = read(answer)
    assert [type(event) for event in events] == [Started, Done]


def test_a_worker_whose_loop_hangs_loses_its_work_and_ends(running: Stack) -> None:
    hung = running.worker("slow")
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("!hang", model="slow", gateway=dispatcher.gateway_id), max_depth=9)
    assert isinstance(answer.next(10), Started)
    wait_until(lambda: running.waiting("slow") == 1, "the request to be put back")
    answer.close()
    assert hung.process.wait(30) == 1


def test_a_request_that_kills_workers_is_condemned_and_its_neighbour_finishes(running: Stack) -> None:
    for _ in range(3):
        running.worker("slow")
    dispatcher = running.dispatcher()
    neighbours = [
        dispatcher.submit(chat(f"n{i}", model="slow", max_tokens=300, gateway=dispatcher.gateway_id), max_depth=99)
        for i in range(6)
    ]
    for answer in neighbours:
        assert isinstance(answer.next(10), Started)
    poison = dispatcher.submit(chat("!exit", model="slow", gateway=dispatcher.gateway_id), max_depth=99)
    (*_, failed) = read(poison)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.final) == ("engine_failed", True)
    for answer in neighbours:
        events = read(answer, timeout_s=60)
        assert isinstance(events[-1], Done)
        assert words(events) == list(range(300))
    assert sum(worker.process.poll() is None for worker in running.workers) == 1
    client = command_client(running.server.url)
    assert client.zrange(keys.DEAD_LETTERS, 0, -1) == [poison.request_id.encode()]
    assert b"!exit" in (client.hget(keys.dead_letter(poison.request_id), "body") or b"")
    client.close()


def test_an_answer_that_cannot_be_continued_ends_with_one_error(running: Stack) -> None:
    for _ in range(2):
        running.worker("slow")
    dispatcher = running.dispatcher()
    call = chat("json", model="slow", max_tokens=300, gateway=dispatcher.gateway_id, response_format="json_object")
    answer = dispatcher.submit(call, max_depth=9)
    started = answer.next(10)
    assert isinstance(answer.next(10), Delta)
    victim_of(running, started).kill()
    (*_, failed) = read(answer)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.final) == ("engine_failed", False)


def test_a_kept_request_goes_on_without_its_gateway_and_its_worker(running: Stack) -> None:
    for _ in range(2):
        running.worker("slow")
    first = running.dispatcher()
    answer = first.submit(chat("kept", model="slow", max_tokens=200, gateway="", keep_s=60, caller="me"), max_depth=9)
    started = answer.next(10)
    assert isinstance(answer.next(10), Delta)
    first.close()
    running.dispatchers.remove(first)
    victim_of(running, started).kill()
    second = running.dispatcher()
    events = read(second.follow(answer.request_id, "me"))
    assert words(events) == list(range(200))
    facts = second.find(answer.request_id, "me")
    assert (facts.status, facts.tries) == (RequestStatus.COMPLETED, 2)
    assert words(read(second.follow(answer.request_id, "me"))) == list(range(200))
    client = running.client()
    assert 0 < client.ttl(keys.stream(answer.request_id)) <= 60
    assert 0 < client.ttl(keys.request(answer.request_id)) <= 60
    client.close()


def test_a_redis_from_before_the_claim_loses_nothing_although_nobody_follows(running: Stack) -> None:
    dispatcher = running.dispatcher()
    call = chat("back", model="slow", stream=False, max_tokens=100, gateway="", keep_s=60, caller="me")
    answer = dispatcher.submit(call, max_depth=9)
    client = running.client()
    before = client.dump(keys.request(call.id))
    assert isinstance(before, bytes)
    running.worker("slow")
    assert isinstance(answer.next(10), Started)
    answer.close()
    # What a restart does that has lost the last second; the worker's connection need not even notice.
    client.restore(keys.request(call.id), 600_000, before, replace=True)
    client.delete(keys.stream(call.id))
    wait_until(lambda: dispatcher.find(call.id, "me").status is RequestStatus.COMPLETED, "the answer after all")
    assert dispatcher.find(call.id, "me").tries == 1
    client.close()

"""An answer that does not stream is put back, drained or loses its worker: the next worker goes on with it.

The message `!exit-after N` ends a simulated engine that gives N tokens of its answer, so an
answer of more than N tokens arrives only if what was given before the move is not given again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks import keys
from tasks.messages import Call, Done, Event, Started
from tasks.queues import Priority
from tests.stack import GatewayProcess, Stack, Worker, chat, read, stack, text_of
from tests.waiting import wait_until
from workers.engine.sim_answers import tag_of, token

pytestmark = pytest.mark.integration

MODELS = """
models:
  slow:
    engine: sim
    sim: {itl_ms: 20, seats: 2, faults: true}
"""
FAST = MODELS.replace("itl_ms: 20", "itl_ms: 0")
TOKENS = 2000
# No engine gives nearly all tokens: the first one is lost long before, and the second has fewer left.
QUESTION = "!exit-after 1990"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    (tmp_path / "fast.yaml").write_text(FAST)
    with stack(tmp_path, MODELS, CELERITY_DRAIN_TIMEOUT_S="1") as started:
        yield started


def next_worker(running: Stack) -> Worker:
    """Start a worker that gives whatever is left at once."""
    return running.worker("slow", CELERITY_MODELS=str(running.folder / "fast.yaml"))


def bulk(running: Stack, **fields: Any) -> Call:
    call = chat(QUESTION, model="slow", stream=False, max_tokens=TOKENS, gateway="", keep_s=60, caller="me", **fields)
    running.dispatcher().submit(call, max_depth=9).close()
    return call


def kept(running: Stack, call: Call) -> int:
    """Return how many tokens of an answer are kept in its record."""
    client = running.client()
    state: Any = client.hget(keys.request(call.id), "state")
    client.close()
    return int(state.removeprefix(b"sim1:")) if state else 0


def followed(running: Stack, call: Call) -> list[Event]:
    return read(running.dispatcher().follow(call.id, "me"))


def whole(events: list[Event]) -> None:
    """Assert that an answer came after two workers had it, and that nothing of it is missing or repeated."""
    assert [type(event) for event in events] == [Started, Started, Done]
    assert all(event.after == "" for event in events if isinstance(event, Started))
    assert text_of(events) == "".join(token(tag_of(QUESTION), index) for index in range(TOKENS))
    (done,) = [event for event in events if isinstance(event, Done)]
    assert (done.completion_tokens, json.loads(done.body)["usage"]["completion_tokens"]) == (TOKENS, TOKENS)


@pytest.mark.parametrize("fault", ["killed", "drained"])
def test_a_bulk_answer_goes_on_where_its_worker_was_lost(running: Stack, fault: str) -> None:
    victim = running.worker("slow")
    call = bulk(running, priority=Priority.BULK)
    wait_until(lambda: kept(running, call) > 50, "its tokens to be kept while it runs")
    before = kept(running, call)
    if fault == "killed":
        victim.kill()
    else:
        assert victim.terminate() == 0
        assert kept(running, call) > before, "a worker that stops says how far it is"
    successor = next_worker(running)
    whole(followed(running, call))
    assert successor.process.poll() is None
    assert running.dispatcher().find(call.id, "me").tries == 2
    wait_until(lambda: running.taken() == 0, "nothing to be left")
    assert kept(running, call) == 0


def test_a_bulk_answer_that_gives_way_goes_on_with_its_tokens(running: Stack) -> None:
    running.worker("slow")
    first, second = bulk(running, priority=Priority.BULK), bulk(running, priority=Priority.BULK)
    wait_until(lambda: kept(running, first) and kept(running, second), "both seats to be taken")
    dispatcher = running.dispatcher()
    urgent = chat("now", model="slow", max_tokens=2, gateway=dispatcher.gateway_id)
    assert isinstance(read(dispatcher.submit(urgent, max_depth=9))[-1], Done)
    client = running.client()
    # Which of them made room is not ours to say; it runs again as soon as the urgent one has ended.
    wait_until(lambda: max(client.xlen(keys.stream(call.id)) for call in (first, second)) == 2, "one to be taken again")
    moved = first if client.xlen(keys.stream(first.id)) == 2 else second
    before = kept(running, moved)
    assert before > 50
    wait_until(lambda: kept(running, moved) > before, "it to go on from there")
    client.close()
    for worker in running.workers:
        worker.kill()


def test_who_waits_for_a_whole_answer_gets_it_although_its_worker_stops(running: Stack) -> None:
    victim, gateway = running.worker("slow"), running.gateway()
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(ask, gateway)
        wait_until(lambda: running.in_flight(victim) == 1, "it to be running")
        assert victim.terminate() == 0
        successor = next_worker(running)
        status, body = answer.result(60)
    assert status == 200
    (choice,) = body["choices"]
    assert choice["message"]["content"] == "".join(token(tag_of(QUESTION), index) for index in range(TOKENS))
    assert body["usage"]["completion_tokens"] == TOKENS
    assert successor.process.poll() is None, "it gave only what was left"


def ask(gateway: GatewayProcess) -> tuple[int, Any]:
    connection = gateway.connect()
    body = {"model": "slow", "max_tokens": TOKENS, "messages": [{"role": "user", "content": QUESTION}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer

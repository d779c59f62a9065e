"""Whoever leaves frees their seat; whoever dies takes nobody along."""

from __future__ import annotations

import pytest

from tasks.errors import RequestCancelledError
from tasks.messages import Done, Failed, Started
from tests.stack import Stack, Worker, chat, read, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def slow(running: Stack) -> Worker:
    """Two seats, 20 ms a token."""
    return running.worker("slow")


def idle(running: Stack) -> bool:
    """Say whether nothing waits and no worker holds a message: a message is acknowledged when its seat is free."""
    return running.taken() == 0 and running.waiting("slow") == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_seat(running: Stack, slow: Worker, stream: bool) -> None:
    # Ten times: a cancellation that comes right after the claim may overtake the claim's reply.
    for _ in range(10):
        leave_after_the_claim(running, slow, stream=stream)


def leave_after_the_claim(running: Stack, slow: Worker, *, stream: bool) -> None:
    dispatcher = running.dispatcher()
    call = chat("x", model="slow", stream=stream, max_tokens=10_000, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=10)
    assert isinstance(answer.next(10), Started)
    answer.close()
    wait_until(lambda: idle(running), "the engine to be idle")


def test_a_client_that_leaves_the_queue_is_taken_out_of_it(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    calls = [chat("x", model="slow", max_tokens=10_000, gateway=dispatcher.gateway_id) for _ in range(3)]
    answers = [dispatcher.submit(call, max_depth=10) for call in calls]
    assert isinstance(answers[0].next(10), Started)
    assert isinstance(answers[1].next(10), Started)
    # Both seats are taken: the third call waits in Redis, not in the worker.
    wait_until(lambda: running.waiting("slow") == 1, "the third call to wait in the queue")
    answers[2].close()
    assert running.waiting("slow") == 0
    for answer in answers:
        answer.close()
    wait_until(lambda: idle(running), "the engine to be idle")


def test_a_waiter_that_is_abandoned_wakes_at_once(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("x", model="slow", gateway=dispatcher.gateway_id), max_depth=10)
    answer.abandon()
    with pytest.raises(RequestCancelledError):
        answer.next(60)
    answer.close()
    wait_until(lambda: idle(running), "the engine to be idle")


def test_requests_of_a_dead_gateway_are_aborted(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(
        chat("x", model="slow", max_tokens=10_000, gateway="a-gateway-that-never-was"), max_depth=10
    )
    assert answer is not None
    wait_until(lambda: idle(running), "the worker to give up the dead gateway's request")


def test_a_request_that_takes_too_long_is_ended_by_its_worker(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    call = chat("x", model="slow", max_tokens=10_000, gateway=dispatcher.gateway_id, total_s=0.5)
    events = read(dispatcher.submit(call, max_depth=10))
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "deadline_exceeded"
    wait_until(lambda: idle(running), "the engine to be idle")


def test_a_message_delivered_twice_is_answered_once(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    client = running.client()
    call = chat("twice", model="nobody", max_tokens=20, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=10)
    (message,) = client.lrange("model.nobody", 0, -1)
    client.delete("model.nobody")
    client.lpush("model.slow", message, message)
    events = read(answer)
    assert [type(event) for event in events].count(Started) == 1
    assert isinstance(events[-1], Done)
    assert len(text_of(events).split()) == 20
    wait_until(lambda: idle(running), "the second delivery to be dropped")
    client.close()


def test_a_worker_told_to_stop_finishes_what_it_has_and_takes_nothing_new(running: Stack) -> None:
    dispatcher = running.dispatcher()
    worker = running.worker("slow")
    calls = [chat(f"w{i}", model="slow", max_tokens=60, gateway=dispatcher.gateway_id) for i in range(4)]
    answers = [dispatcher.submit(call, max_depth=10) for call in calls]
    firsts = [answer.next(10) for answer in answers]
    assert all(isinstance(first, Started) for first in firsts)
    assert worker.terminate() == 0
    for answer in answers:
        assert isinstance(read(answer)[-1], Done)

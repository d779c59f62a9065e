"""What crosses Redis is read back as it was written, today's and yesterday's."""

from __future__ import annotations

import pytest

from tasks.messages import (
    Call,
    Delta,
    Done,
    Endpoint,
    Event,
    Failed,
    Started,
    decode_call,
    decode_event,
    encode_call,
    encode_event,
)
from tasks.queues import Priority

CALL = Call(
    id="req_1",
    model="demo",
    endpoint=Endpoint.CHAT,
    body='{"messages": "ü"}'.encode(),
    stream=True,
    gateway="g1",
    priority=Priority.BULK,
    queue_wait_s=1.5,
    total_s=600.0,
)
EVENTS: list[Event] = [
    Started("demo-1", 2),
    Delta(b'data: {"x": 1}\n\n'),
    Done(finish_reason="stop", prompt_tokens=3, completion_tokens=4, body=b"{}"),
    Failed("engine_failed", "broken"),
    Failed("invalid_request", "wrong", "messages"),
    Failed("pool_exhausted", "full", retry_after_s=12.5),
]


def test_a_call_survives_the_wire() -> None:
    assert decode_call(encode_call(CALL)) == CALL


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_wire(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


def test_a_kind_of_a_newer_release_is_passed_over() -> None:
    assert decode_event({b"k": b"progress", b"percent": b"50"}) is None


def test_fields_of_a_newer_release_are_ignored() -> None:
    assert decode_call(encode_call(CALL) | {b"trace": b"x"}) == CALL
    assert decode_event(encode_event(EVENTS[0]) | {b"node": b"x"}) == EVENTS[0]


# As version 0.1.0 wrote them. Gateways and workers of two releases meet in every deploy,
# so what stands here is never changed, only added to.
RECORDED: list[tuple[dict[bytes, bytes], Event]] = [
    ({b"k": b"started", b"replica": b"demo-1", b"attempt": b"2"}, EVENTS[0]),
    ({b"k": b"delta", b"f": b'data: {"x": 1}\n\n'}, EVENTS[1]),
    ({b"k": b"done", b"finish": b"stop", b"prompt": b"3", b"completion": b"4", b"body": b"{}"}, EVENTS[2]),
    ({b"k": b"failed", b"code": b"engine_failed", b"message": b"broken"}, EVENTS[3]),
    ({b"k": b"failed", b"code": b"invalid_request", b"message": b"wrong", b"param": b"messages"}, EVENTS[4]),
]


@pytest.mark.parametrize(("fields", "event"), RECORDED)
def test_recorded_messages_still_decode(fields: dict[bytes, bytes], event: Event) -> None:
    assert decode_event(fields) == event


def test_a_prompt_is_not_in_the_repr_of_an_answer() -> None:
    assert "secret" not in repr(Done(body=b"secret"))

"""A call goes through a real Redis and a real engine worker, and comes back whole."""

from __future__ import annotations

import pytest

from tasks.errors import ServerOverloadedError
from tasks.messages import Delta, Done, Endpoint, Failed, Started
from tests.stack import Stack, Worker, chat, in_threads, read, text_of
from workers.engine.sim import tag_of, token

pytestmark = pytest.mark.integration


def expected(text: str, tokens: int) -> str:
    return "".join(token(tag_of(text), index) for index in range(tokens))


def test_a_streamed_answer_begins_with_its_worker_and_ends_once(running: Stack, sim: Worker) -> None:
    dispatcher = running.dispatcher()
    events = read(dispatcher.submit(chat("hello", gateway=dispatcher.gateway_id), max_depth=10))
    assert isinstance(events[0], Started)
    assert (events[0].replica, events[0].after) == (sim.replica_id, "")
    assert {type(event) for event in events[1:-1]} == {Delta}
    assert events[-1] == Done(finish_reason="length", prompt_tokens=1, completion_tokens=8)
    assert text_of(events) == expected("hello", 8)


def test_an_answer_that_does_not_stream_is_one_record(running: Stack, sim: Worker) -> None:
    dispatcher = running.dispatcher()
    events = read(dispatcher.submit(chat("hello", stream=False, gateway=dispatcher.gateway_id), max_depth=10))
    assert [type(event) for event in events] == [Started, Done]
    assert text_of(events) == expected("hello", 8)


def test_five_hundred_streams_never_mix(running: Stack, sim: Worker) -> None:
    clients = [running.dispatcher(), running.dispatcher()]

    def one(index: int) -> None:
        for turn in range(10):
            dispatcher = clients[(index + turn) % 2]
            text = f"user {index} turn {turn}"
            call = chat(text, max_tokens=20, gateway=dispatcher.gateway_id)
            assert text_of(read(dispatcher.submit(call, max_depth=1000))) == expected(text, 20)

    in_threads(50, one)


def test_a_refused_request_fails_with_its_code_and_the_worker_goes_on(running: Stack, sim: Worker) -> None:
    dispatcher = running.dispatcher()
    too_long = chat("hello", max_tokens=2_000_000, gateway=dispatcher.gateway_id)
    events = read(dispatcher.submit(too_long, max_depth=10))
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, events[-1].param) == ("context_length_exceeded", "messages")
    after = read(dispatcher.submit(chat("next", gateway=dispatcher.gateway_id), max_depth=10))
    assert isinstance(after[-1], Done)


def test_an_embedding_comes_back_whole(running: Stack, sim: Worker) -> None:
    dispatcher = running.dispatcher()
    call = chat("unused", stream=False, gateway=dispatcher.gateway_id)
    embed = type(call)(
        id=call.id,
        model="sim",
        endpoint=Endpoint.EMBEDDING,
        body=b'{"input": ["a", "b"]}',
        stream=False,
        gateway=call.gateway,
    )
    done = read(dispatcher.submit(embed, max_depth=10))[-1]
    assert isinstance(done, Done)
    assert done.body.count(b'"embedding":[') == 2


def test_a_full_queue_refuses_at_once_and_forgets_the_call(running: Stack) -> None:
    dispatcher = running.dispatcher()
    waiting = [
        dispatcher.submit(chat("x", model="nobody", gateway=dispatcher.gateway_id), max_depth=2) for _ in range(2)
    ]
    refused = chat("x", model="nobody", gateway=dispatcher.gateway_id)
    with pytest.raises(ServerOverloadedError):
        dispatcher.submit(refused, max_depth=2)
    client = running.client()
    assert not client.exists(f"celerity:request:{refused.id}")
    for answer in waiting:
        answer.close()
    assert running.waiting("nobody") == 0
    client.close()


def test_a_call_that_waited_too_long_is_not_run(running: Stack) -> None:
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("x", model="slow", gateway=dispatcher.gateway_id, queue_wait_s=0.001), max_depth=10)
    worker = running.worker("slow")
    events = read(answer)
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "deadline_exceeded"
    assert worker.terminate() == 0


def test_prompts_stand_in_no_message_and_no_log(running: Stack, sim: Worker) -> None:
    dispatcher = running.dispatcher()
    client = running.client()
    answer = dispatcher.submit(chat("a-secret-prompt", model="nobody", gateway=dispatcher.gateway_id), max_depth=9)
    messages = client.lrange("model.nobody", 0, -1)
    assert messages
    assert not any(b"a-secret-prompt" in message for message in messages)
    answer.close()
    read(dispatcher.submit(chat("a-secret-prompt", gateway=dispatcher.gateway_id), max_depth=9))
    assert "a-secret-prompt" not in sim.log.read_text()
    client.close()

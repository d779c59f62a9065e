"""What the vLLM engine answers, on the demo model, through the engine protocol alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from deploy.demo_model import corpus
from tests.e2e.engine_loop import MARKS, EngineLoop, demo, job, running
from tests.waiting import wait_until
from workers.engine.base import Frames, RequestRefusedError

pytestmark = MARKS

QUESTION, ANSWER = corpus.product_answers()[0]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SECRET = "xylophone-7391"


@pytest.fixture(scope="module")
def loop() -> Iterator[EngineLoop]:
    with running(demo()) as engine_loop:
        yield engine_loop


def chat(question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"model": "an alias", "messages": [{"role": "user", "content": question}], "temperature": 0} | fields


def endless(**fields: Any) -> dict[str, Any]:
    return chat(max_tokens=1900, ignore_eos=True, temperature=1, **fields)


def text_of(chunks: list[Any], index: int = 0) -> str:
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


def refused(loop: EngineLoop, endpoint: str, body: dict[str, Any], *, stream: bool = False) -> RequestRefusedError:
    with pytest.raises(RequestRefusedError) as caught:
        loop.call(loop.pieces(job(endpoint, body, stream=stream)))
    return caught.value


# What is answered


def test_a_greedy_answer_is_the_known_one_and_stays_so(loop: EngineLoop) -> None:
    for _ in range(2):
        answer = loop.answer("chat", chat())
        assert answer["choices"][0]["message"]["content"] == ANSWER
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["model"] == "demo"


def test_a_stream_holds_the_same_text_and_names_the_role_once(loop: EngineLoop) -> None:
    chunks, result = loop.chunks("chat", chat())
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert text_of(chunks) == ANSWER
    assert result.finish_reason == "stop"
    assert result.completion_tokens > len(chunks) / 2


def test_the_ids_of_an_answer_come_from_the_job(loop: EngineLoop) -> None:
    one = job("chat", chat(max_tokens=2), stream=True)
    frames = loop.call(loop.pieces(one))[:-1]
    assert all(f'"id":"chatcmpl-{one.id}"'.encode() in frame.data for frame in frames if isinstance(frame, Frames))


def test_two_choices_are_two_answers(loop: EngineLoop) -> None:
    # Of several greedy choices vLLM allows one; the likeliest token each time is the same.
    body = chat(n=2, temperature=1, top_k=1)
    answer = loop.answer("chat", body)
    assert [choice["message"]["content"] for choice in answer["choices"]] == [ANSWER, ANSWER]
    chunks, result = loop.chunks("chat", body)
    assert [text_of(chunks, index) for index in (0, 1)] == [ANSWER, ANSWER]
    assert result.completion_tokens == answer["usage"]["completion_tokens"]


def test_a_tool_call_is_parsed(loop: EngineLoop) -> None:
    asked = chat("What is the weather in Paris?", tools=[WEATHER])
    choice = loop.answer("chat", asked)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert (call["function"]["name"], orjson.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Paris"})


def test_a_streamed_tool_call_names_itself_once(loop: EngineLoop) -> None:
    chunks, result = loop.chunks("chat", chat("What is the weather in Paris?", tools=[WEATHER]))
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    assert [call["function"]["name"] for call in calls if call["function"].get("name")] == ["get_weather"]
    assert len([call for call in calls if call.get("id")]) == 1
    arguments = "".join(call["function"].get("arguments") or "" for call in calls)
    assert orjson.loads(arguments) == {"city": "Paris"}
    assert result.finish_reason == "tool_calls"


def test_a_json_schema_is_kept_to(loop: EngineLoop) -> None:
    properties = {"city": {"type": "string"}, "country": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["city", "country"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "capital", "schema": schema}}
    question = "Answer in JSON: What is the capital of France?"
    answer = loop.answer("chat", chat(question, response_format=wanted))
    said = orjson.loads(answer["choices"][0]["message"]["content"])
    assert {name: type(value) for name, value in said.items()} == {"city": str, "country": str}


def test_logprobs_come_with_each_token(loop: EngineLoop) -> None:
    answer = loop.answer("chat", chat(logprobs=True, top_logprobs=2, max_tokens=4))
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in content)


def test_a_stop_text_ends_the_answer_before_it(loop: EngineLoop) -> None:
    choice = loop.answer("chat", chat(stop=[" language"]))["choices"][0]
    assert choice["message"]["content"] == ANSWER.partition(" language")[0]
    assert choice["finish_reason"] == "stop"


def test_a_seed_repeats_a_random_answer(loop: EngineLoop) -> None:
    body = chat("Tell me something", temperature=2.0, seed=5, max_tokens=30)
    first, second = (loop.answer("chat", body)["choices"][0]["message"]["content"] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_usage_is_streamed_only_if_asked_for_and_known_either_way(loop: EngineLoop, endpoint: str) -> None:
    body = chat(max_tokens=8) if endpoint == "chat" else {"prompt": "Celerity", "max_tokens": 8, "temperature": 0}
    plain, result = loop.chunks(endpoint, body)
    assert not any("usage" in chunk for chunk in plain)
    asked, same = loop.chunks(endpoint, body | {"stream_options": {"include_usage": True}})
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["prompt_tokens"] == result.prompt_tokens == same.prompt_tokens
    assert asked[-1]["usage"]["completion_tokens"] == result.completion_tokens == same.completion_tokens == 8


def test_a_completion_continues_every_prompt(loop: EngineLoop) -> None:
    answer = loop.answer("completion", {"prompt": ["Celerity", "The demo"], "max_tokens": 4, "temperature": 0})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


def test_concurrent_answers_are_those_given_one_by_one(loop: EngineLoop) -> None:
    known = corpus.known_answers()[:32]

    async def together() -> list[list[Any]]:
        jobs = [job("chat", chat(question)) for question, _ in known]
        return await asyncio.gather(*(loop.pieces(one) for one in jobs))

    answers = [orjson.loads(pieces[-1].body)["choices"][0]["message"]["content"] for pieces in loop.call(together())]
    assert answers == [answer for _, answer in known]


# What is refused


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("chat", chat("word " * 3000), ("context_length_exceeded", "messages")),
        ("completion", {"prompt": "word " * 3000}, ("context_length_exceeded", "prompt")),
        ("chat", chat(max_tokens=100_000), ("context_length_exceeded", "max_tokens")),
        ("embedding", {"input": SECRET}, ("unsupported_endpoint", None)),
        ("chat", {}, ("invalid_request", "messages")),
        ("chat", chat(SECRET, temperature=SECRET), ("invalid_request", "temperature")),
        ("chat", chat(SECRET, top_logprobs=5), ("invalid_request", "top_logprobs")),
        ("chat", chat(SECRET, logit_bias={"1000000": 1}), ("invalid_request", "logit_bias")),
        ("chat", chat(SECRET, n=17), ("invalid_request", None)),
        ("chat", chat(SECRET, stop=[SECRET] * 1000), ("invalid_request", "stop")),
        ("chat", chat(SECRET, chat_template="{{ messages }}"), ("unsupported_parameter", "chat_template")),
        ("chat", chat(SECRET, structured_outputs={"regex": "(("}), ("invalid_request", None)),
    ],
)
def test_a_bad_request_is_refused_and_harms_nobody(
    loop: EngineLoop, endpoint: str, body: dict[str, Any], expected: tuple[str, str | None], *, stream: bool
) -> None:
    with keeping_the_log() as records:
        refusal = refused(loop, endpoint, body, stream=stream)
    assert (refusal.code, refusal.param) == expected
    assert SECRET not in refusal.message + "".join(records)
    assert "VLLM_" not in refusal.message
    assert loop.engine.load().running == loop.engine.unfinished() == 0
    assert loop.answer("chat", chat("What is 1 + 1?"))["choices"][0]["message"]["content"] == "1 + 1 = 2."


@contextlib.contextmanager
def keeping_the_log() -> Iterator[list[str]]:
    """Collect what any logger says meanwhile, with its tracebacks."""
    kept: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: kept.append(logging.Formatter().format(record))  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield kept
    finally:
        logging.getLogger().removeHandler(handler)


# What is cancelled


async def first_frame(frames: AsyncIterator[Any]) -> None:
    assert isinstance(await anext(frames), Frames)


def assert_idle(loop: EngineLoop) -> None:
    """Vouch for vLLM's front end, and for its scheduler: the next request finds itself alone there."""
    wait_until(lambda: loop.engine.unfinished() == 0, "no request in the engine")
    assert loop.engine.load().running == 0
    assert loop.engine.load().kv_usage == 0.0
    assert busiest(loop) == 1


def busiest(loop: EngineLoop) -> int:
    """Return how many requests the scheduler ever ran beside a short one, that one included."""

    async def watch() -> list[int]:
        return [loop.engine._gauges.running async for _ in loop.engine.run(job("chat", chat(), stream=True))]

    return max(loop.call(watch()))


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_cancelling_the_task_frees_the_seat_and_keeps_the_reason(loop: EngineLoop, n: int, stream: bool) -> None:
    async def cancelled() -> str:
        task = asyncio.create_task(loop.pieces(job("chat", endless(n=n), stream=stream)))
        while loop.engine.unfinished() < n:  # noqa: ASYNC110 - vLLM tells nobody when it has taken a request
            await asyncio.sleep(0)
        task.cancel("no time left")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return str(caught.value)

    assert loop.call(cancelled()) == "no time left"
    assert_idle(loop)


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_closing_the_iterator_frees_the_seat(loop: EngineLoop, endpoint: str) -> None:
    prompts = {"prompt": ["Celerity", "The demo"], "max_tokens": 1900, "ignore_eos": True}

    async def left() -> int:
        body = endless() if endpoint == "chat" else prompts
        frames = loop.engine.run(job(endpoint, body, stream=True))
        async with contextlib.aclosing(frames):
            await first_frame(frames)
            return int(loop.engine.load().running)

    assert loop.call(left()) == 1
    assert_idle(loop)


def test_a_cancelled_request_leaves_the_others_alone(loop: EngineLoop) -> None:
    async def both() -> list[Any]:
        kept = asyncio.create_task(loop.pieces(job("chat", chat())))
        dropped = loop.engine.run(job("chat", endless(), stream=True))
        await first_frame(dropped)
        await dropped.aclose()
        return await kept

    (result,) = loop.call(both())
    assert orjson.loads(result.body)["choices"][0]["message"]["content"] == ANSWER
    assert_idle(loop)

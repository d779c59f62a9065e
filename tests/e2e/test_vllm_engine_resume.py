"""A vLLM engine goes on where another was lost: the client cannot tell from its answer.

How many tokens share a frame depends on the moment, so answers are compared by what
their frames say together.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from deploy.demo_model import corpus
from tests.e2e.engine_loop import MARKS, EngineLoop, demo, job, running
from tests.waiting import wait_until
from workers.engine.base import Frames, Job, RequestRefusedError, Result, Resume

pytestmark = MARKS

QUESTION, ANSWER = corpus.product_answers()[0]
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
RUNNING_USAGE: dict[str, Any] = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
# Of several greedy choices vLLM allows one; the likeliest token each time is the same.
TWO: dict[str, Any] = {"n": 2, "temperature": 1, "top_k": 1}


@pytest.fixture(scope="module")
def loop() -> Iterator[EngineLoop]:
    with running(demo()) as engine_loop:
        yield engine_loop


def chat(question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0} | fields


def completion(*prompts: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompts[0] if len(prompts) == 1 else prompts, "temperature": 0, "max_tokens": 10} | fields


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat", chat()),
    "chat with usage": ("chat", chat(max_tokens=12, **USAGE)),
    "chat with usage in every frame": ("chat", chat(max_tokens=12, **RUNNING_USAGE)),
    "chat that must not end early": ("chat", chat("What is 1 + 1?", min_tokens=15, max_tokens=20)),
    "chat beyond its end": ("chat", chat("What is 1 + 1?", ignore_eos=True, max_tokens=20)),
    "chat up to a stop text": ("chat", chat(stop=[" language mod"], **USAGE)),
    "chat with its stop text": ("chat", chat(stop=[" language mod"], include_stop_str_in_output=True)),
    "chat that holds text back in vain": ("chat", chat(stop=["a text that never comes"], max_tokens=16)),
    "chat with log probabilities": ("chat", chat(logprobs=True, top_logprobs=1, max_tokens=10)),
    "chat with token ids": ("chat", chat(return_token_ids=True, max_tokens=10)),
    "chat behind its own echo": ("chat", chat(echo=True, max_tokens=8)),
    "chat that may call tools": ("chat", chat(tools=[{"type": "function", "function": {"name": "f"}}])),
    "two choices": ("chat", chat(max_tokens=10, **TWO, **USAGE)),
    "two seeded choices": ("chat", chat(max_tokens=10, seed=5, **TWO)),
    "completion": ("completion", completion("Celerity", **USAGE)),
    "completion of a few bytes a token": ("completion", completion("日本語 🎉 é", ignore_eos=True)),
    "completion behind its prompt": ("completion", completion("Celerity", echo=True, logprobs=1)),
    "completions of three prompts": ("completion", completion("Celerity", "The demo", "What is", **RUNNING_USAGE)),
    "two completions of two prompts": ("completion", completion("Celerity", "The demo", stop=["zq"], **TWO)),
}


def long_ago(frames: list[Frames]) -> list[Frames]:
    return [Frames(re.sub(rb'"created":\d+', b'"created":1000', piece.data), piece.trail) for piece in frames]


def resumed(one: Job, sent: list[Frames], **changes: Any) -> Job:
    """Return the same job for a worker that finds `sent` in the stream of its answer."""
    data = b"".join(piece.data for piece in sent)
    trail = tuple(piece.trail for piece in sent if piece.trail is not None)
    resume = Resume(frames=data.count(b"\n\n"), first=data.partition(b"\n\n")[0] + b"\n\n", trail=trail)
    return Job(id=one.id, endpoint=one.endpoint, body=one.body, stream=True, resume=resume, **changes)


def run(loop: EngineLoop, one: Job) -> tuple[list[Frames], Result]:
    *frames, result = loop.call(loop.pieces(one))
    assert isinstance(result, Result)
    return [piece for piece in frames if isinstance(piece, Frames)], result


def meaning(frames: list[Frames]) -> dict[str, Any]:
    """Return what the frames of an answer say together."""
    said: dict[str, Any] = {"heads": set(), "usage": None}
    for piece in frames:
        chunk = orjson.loads(piece.data.removeprefix(b"data: "))
        said["heads"].add((chunk["id"], chunk["created"], chunk["model"], chunk["object"]))
        said["usage"] = chunk.get("usage")
        for choice in chunk["choices"]:
            mine = said.setdefault(choice["index"], {"text": "", "roles": 0, "tokens": [], "scored": [], "end": []})
            delta = choice.get("delta", {})
            mine["text"] += choice.get("text") or delta.get("content") or ""
            mine["roles"] += "role" in delta
            mine["tokens"] += choice.get("token_ids") or []
            scores = choice.get("logprobs") or {}
            mine["scored"] += [token["token"] for token in scores.get("content", [])] + scores.get("tokens", [])
            if choice["finish_reason"]:
                mine["end"].append((choice["finish_reason"], choice.get("stop_reason")))
    return said


@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_it_is_cut_the_answer_is_that_of_an_undisturbed_run(loop: EngineLoop, shape: str) -> None:
    one = job(*SHAPES[shape], stream=True)
    frames, result = run(loop, one)
    whole = long_ago(frames)
    expected = meaning(whole)
    for cut in range(1, len(whole) + 1):
        later, end = run(loop, resumed(one, whole[:cut]))
        assert meaning(whole[:cut] + later) == expected, f"cut after frame {cut}"
        assert end == result


@pytest.mark.parametrize("shape", ["chat", "chat up to a stop text", "two choices", "completions of three prompts"])
def test_it_may_be_cut_again_and_again(loop: EngineLoop, shape: str) -> None:
    one = job(*SHAPES[shape], stream=True)
    frames, _ = run(loop, one)
    whole = long_ago(frames)
    sent = whole[:1]
    later: list[Frames] = whole[1:]
    while later:
        later, _ = run(loop, resumed(one, sent))
        sent += later[:3]
    assert meaning(sent) == meaning(whole)


def test_a_stop_text_that_began_before_the_cut_is_found(loop: EngineLoop) -> None:
    one = job("chat", chat(stop=[" language mod"]), stream=True)
    frames, _ = run(loop, one)
    (tokens,) = [number for number, piece in enumerate(frames, 1) if piece.trail and piece.trail.endswith(b"!text")]
    assert tokens > 2
    later, _ = run(loop, resumed(one, frames[: tokens - 1]))
    assert b'"stop_reason":" language mod"' in later[-1].data


def test_a_sampled_answer_goes_on_within_its_budget(loop: EngineLoop) -> None:
    one = job("chat", chat(temperature=1.5, seed=7, max_tokens=20, ignore_eos=True, **USAGE), stream=True)
    frames, _ = run(loop, one)
    later, result = run(loop, resumed(one, frames[:5]))
    assert (result.completion_tokens, result.finish_reason) == (20, "length")
    assert meaning(frames[:5] + later)["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("stream", [True, False])
def test_the_first_token_of_every_run_is_told_once(loop: EngineLoop, *, stream: bool) -> None:
    told: list[int] = []
    one = job("chat", chat(max_tokens=40, ignore_eos=True), stream=stream)

    async def first_token_then_the_rest() -> bool:
        early = asyncio.Event()

        def on_token() -> None:
            told.append(1)
            early.set()

        begun = Job(id=one.id, endpoint="chat", body=one.body, stream=stream, on_token=on_token)
        answering = asyncio.create_task(loop.pieces(begun))
        await early.wait()
        unfinished = not answering.done()
        await answering
        return unfinished

    assert loop.call(first_token_then_the_rest())
    assert told == [1]


def test_a_run_that_has_nothing_left_to_generate_tells_of_no_token(loop: EngineLoop) -> None:
    one = job("chat", chat(max_tokens=4, **USAGE), stream=True)
    frames, _ = run(loop, one)
    told: list[int] = []
    later, _ = run(loop, resumed(one, frames[:-1], on_token=lambda: told.append(1)))
    assert [orjson.loads(piece.data.removeprefix(b"data: "))["choices"] for piece in later] == [[]]
    assert told == []


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "[a-z ]+"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
    ],
)
def test_structured_answers_leave_no_trail(loop: EngineLoop, fields: dict[str, Any]) -> None:
    frames, _ = run(loop, job("chat", chat(max_tokens=5, **fields), stream=True))
    assert {piece.trail for piece in frames} == {None}


def test_a_tool_call_leaves_no_trail_from_its_first_frame_on(loop: EngineLoop) -> None:
    weather = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    asked = chat("What is the weather in Paris?", tools=[{"type": "function", "function": weather}])
    one = job("chat", asked, stream=True)
    frames, result = run(loop, one)
    assert result.finish_reason == "tool_calls"
    first = next(number for number, piece in enumerate(frames) if b'"tool_calls":' in piece.data)
    assert {piece.trail is None for piece in frames[:first]} == {False}
    assert {piece.trail is None for piece in frames[first:]} == {True}
    for cut in range(1, first + 1):  # until then it may be made elsewhere
        later, end = run(loop, resumed(one, frames[:cut]))
        assert end == result
        assert called(frames[:cut] + later) == ("get_weather", {"city": "Paris"})


def called(frames: list[Frames]) -> tuple[str, Any]:
    """Return the name and the arguments of the only tool call in the frames of an answer."""
    deltas = [orjson.loads(piece.data.removeprefix(b"data: "))["choices"][0]["delta"] for piece in frames]
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    (name,) = [call["name"] for call in calls if call.get("name")]
    return name, orjson.loads("".join(call.get("arguments") or "" for call in calls))


@pytest.mark.parametrize(
    ("frames", "trail"),
    [
        (1, (b"elsewhere",)),
        (9, (b"300",)),  # the client has frames that these tokens do not explain
        (1, (b"1@300",)),
        (1, (b"1:300",)),
        (3, (b"300;301!text",)),
        (3, (b"300,301,302,303,304,305,306,307,308",)),
    ],
)
def test_a_trail_that_leads_nowhere_is_refused_and_harms_nobody(
    loop: EngineLoop, frames: int, trail: tuple[bytes, ...]
) -> None:
    one = job("chat", chat(max_tokens=8, stop=["zq"]), stream=True)
    first = run(loop, one)[0][0].data
    lost = Resume(frames=frames, first=first, trail=trail)
    with pytest.raises(RequestRefusedError) as refused:
        run(loop, Job(id=one.id, endpoint="chat", body=one.body, stream=True, resume=lost))
    assert refused.value.code == "engine_failed"
    wait_until(lambda: loop.engine.unfinished() == 0, "no request in the engine")


@pytest.mark.parametrize("shape", ["chat", "two choices", "completions of three prompts"])
def test_leaving_a_run_that_goes_on_frees_its_seat(loop: EngineLoop, shape: str) -> None:
    endpoint, body = SHAPES[shape]
    one = job(endpoint, body | {"max_tokens": 1500, "ignore_eos": True}, stream=True)

    async def left() -> int:
        first = loop.engine.run(one)
        async with contextlib.aclosing(first):
            sent = [await anext(first) for _ in range(8)]
        second = loop.engine.run(resumed(one, sent))
        async with contextlib.aclosing(second):
            await anext(second)
            return int(loop.engine.load().running)

    assert loop.call(left()) == 1
    wait_until(lambda: loop.engine.unfinished() == 0, "no request in the engine")

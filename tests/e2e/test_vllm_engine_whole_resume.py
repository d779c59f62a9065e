"""A vLLM engine goes on with an answer that does not stream: its end is that of an undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import orjson
import pytest

from deploy.demo_model import corpus
from tests.e2e.engine_loop import MARKS, EngineLoop, demo, job, running
from tests.waiting import wait_until
from workers.engine.base import Job, Result, Resume
from workers.engine.vllm_trail import decode

pytestmark = MARKS

T = TypeVar("T")

LOOKS = 20
QUESTION, _ = corpus.product_answers()[0]
# Of several greedy choices vLLM allows one; the likeliest token each time is the same.
TWO: dict[str, Any] = {"n": 2, "temperature": 1, "top_k": 1}
WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


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
    "chat that must not end early": ("chat", chat("What is 1 + 1?", min_tokens=15, max_tokens=20)),
    "chat beyond its end": ("chat", chat("What is 1 + 1?", ignore_eos=True, max_tokens=20)),
    "chat up to a stop text": ("chat", chat(stop=[" language mod"])),
    "chat with its stop text": ("chat", chat(stop=[" language mod"], include_stop_str_in_output=True)),
    "chat with token ids": ("chat", chat(return_token_ids=True, max_tokens=10)),
    "chat that calls a tool": (
        "chat",
        chat("What is the weather in Paris?", tools=[{"type": "function", "function": WEATHER}]),
    ),
    "two choices": ("chat", chat(max_tokens=10, **TWO)),
    "two seeded choices": ("chat", chat(max_tokens=10, seed=5, **TWO)),
    "completion": ("completion", completion("Celerity")),
    "completion of a few bytes a token": ("completion", completion("日本語 🎉 é", ignore_eos=True)),
    "completion behind its prompt": ("completion", completion("Celerity", echo=True)),
    "completions of three prompts": ("completion", completion("Celerity", "The demo", "What is")),
    "two completions of two prompts": ("completion", completion("Celerity", "The demo", stop=["zq"], **TWO)),
}


def again(one: Job, state: bytes) -> Job:
    """Return the same job for a worker that finds `state` in the request's record."""
    resume = Resume(frames=0, first=b"", trail=(state,))
    return Job(id=one.id, endpoint=one.endpoint, body=one.body, stream=False, resume=resume)


def run(loop: EngineLoop, one: Job) -> Result:
    (result,) = loop.call(loop.pieces(one))
    assert isinstance(result, Result)
    return result


def seen(look: Callable[[], tuple[T, int]], least: int) -> T:
    """Return what a look has found that saw as many different states as `least`.

    A busy machine delivers what several steps gave at once, and nobody sees what was between them.
    """
    for _ in range(LOOKS):
        found, states = look()
        if states >= least:
            return found
    raise AssertionError(f"{LOOKS} looks saw fewer than {least} states each")


def watched(loop: EngineLoop, one: Job, least: int = 3) -> tuple[Result, list[bytes]]:
    """Run a job like this one, and collect each different state in which it was: at least so many."""

    def look() -> tuple[tuple[Result, list[bytes]], int]:
        result, states = _watched(loop, Job(id=one.id, endpoint=one.endpoint, body=one.body, stream=False))
        return (result, states), len(states)

    return seen(look, least)


def _watched(loop: EngineLoop, one: Job) -> tuple[Result, list[bytes]]:
    states: dict[bytes, None] = {}

    async def watching() -> Result:
        answering = asyncio.create_task(loop.pieces(one))
        while not answering.done():
            if (state := one.progress.now()) is not None:
                states[state] = None
            await asyncio.sleep(0)
        (result,) = await answering
        assert isinstance(result, Result)
        return result

    result = loop.call(watching())
    last = one.progress.now()
    assert last is not None
    return result, list(states | {last: None})


def meaning(result: Result) -> dict[str, Any]:
    """Return an answer without what differs between two runs of the same job: when, and what a tool call is named."""
    answer: dict[str, Any] = orjson.loads(result.body)
    del answer["created"]
    for choice in answer["choices"]:
        for call in choice.get("message", {}).get("tool_calls") or ():
            del call["id"]
    return answer


def tokens_in(state: bytes) -> int:
    return sum(len(said.tokens) for output in decode([state.partition(b":")[2]]) for said in output.said)


@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_it_is_cut_the_answer_is_that_of_an_undisturbed_run(loop: EngineLoop, shape: str) -> None:
    one = job(*SHAPES[shape])
    whole, states = watched(loop, one)
    counts = [tokens_in(state) for state in states]
    assert counts == sorted(counts)
    assert counts[-1] == whole.completion_tokens
    for state in states:
        result = run(loop, again(one, state))
        assert meaning(result) == meaning(whole), state
        assert (result.finish_reason, result.prompt_tokens, result.completion_tokens) == (
            whole.finish_reason,
            whole.prompt_tokens,
            whole.completion_tokens,
        )


@pytest.mark.parametrize("shape", ["chat", "chat up to a stop text", "two choices", "completions of three prompts"])
def test_it_may_be_broken_off_again_and_again(loop: EngineLoop, shape: str) -> None:
    endpoint, body = SHAPES[shape]
    one = job(endpoint, body)
    whole = run(loop, one)

    async def two_tokens_more(begun: Job, had: int) -> Result | None:
        answering = asyncio.create_task(loop.pieces(begun))
        while not answering.done():
            state = begun.progress.now()
            if state is not None and tokens_in(state) >= had + 2:
                answering.cancel()
            await asyncio.sleep(0)
        if answering.cancelled():
            return None
        (result,) = answering.result()
        assert isinstance(result, Result)
        return result

    def broken_off() -> tuple[Result, int]:
        begun, had, runs = Job(id=one.id, endpoint=endpoint, body=one.body, stream=False), 0, 0
        while (result := loop.call(two_tokens_more(begun, had))) is None:
            state = begun.progress.now()
            assert state is not None
            assert tokens_in(state) > had, "what was generated is kept, and nothing is generated twice"
            begun, had, runs = again(one, state), tokens_in(state), runs + 1
        return result, runs

    assert meaning(seen(broken_off, least=2)) == meaning(whole)
    wait_until(lambda: loop.engine.unfinished() == 0, "no request in the engine")


def test_a_stop_text_that_began_before_the_cut_is_found(loop: EngineLoop) -> None:
    one = job("chat", chat(stop=[" language mod"]))
    whole, states = watched(loop, one)
    assert orjson.loads(whole.body)["choices"][0]["stop_reason"] == " language mod"
    before = states[-2]
    assert not before.endswith(b"!text")
    assert meaning(run(loop, again(one, before))) == meaning(whole)


def test_a_sampled_answer_goes_on_within_its_budget(loop: EngineLoop) -> None:
    one = job("chat", chat(temperature=1.5, seed=7, max_tokens=20, ignore_eos=True))
    _, states = watched(loop, one, least=5)
    result = run(loop, again(one, states[4]))
    assert (result.completion_tokens, result.finish_reason) == (20, "length")


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "[a-z ]+"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
        {"logprobs": True, "top_logprobs": 1},
        {"prompt_logprobs": 1},
        {"echo": True},
    ],
)
def test_what_cannot_be_continued_leaves_nothing_and_begins_anew(loop: EngineLoop, fields: dict[str, Any]) -> None:
    one = job("chat", chat(max_tokens=8, **fields))
    whole = run(loop, one)
    assert one.progress.now() is None
    assert meaning(run(loop, again(one, b"vllm1:300,301"))) == meaning(whole)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"sim1:12",
        b"vllm1:",
        b"vllm1:elsewhere",
        b"vllm1:1@300",
        b"vllm1:1:300",
        b"vllm1:300;301!text",
        b"vllm1:300,301,302,303,304,305,306,307,308",
        b"vllm1:300,99999999",
        b"vllm2:300",
    ],
)
def test_a_state_that_leads_nowhere_costs_nothing_but_the_tokens(loop: EngineLoop, state: bytes) -> None:
    one = job("chat", chat(max_tokens=8, stop=["zq"]))
    assert meaning(run(loop, again(one, state))) == meaning(run(loop, one))
    wait_until(lambda: loop.engine.unfinished() == 0, "no request in the engine")

"""A simulated engine goes on with an answer that does not stream, and gives no token twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from workers.engine.base import Frames, Job, Result, Resume
from workers.engine.sim import SimEngine
from workers.engine.sim_answers import progress
from workers.registry import ModelSpec, SimSpec

AT_ONCE = ModelSpec(id="sim", engine="sim", sim=SimSpec(ttft_ms=0, itl_ms=0))
# The second token never comes.
ONE_TOKEN = ModelSpec(id="sim", engine="sim", sim=SimSpec(ttft_ms=0, itl_ms=10_000_000))
SHAPES = [("chat", {}), ("chat", {"n": 2}), ("completion", {})]


def job(endpoint: str = "chat", state: bytes | None = None, **body: Any) -> Job:
    body |= {"prompt": "hello"} if endpoint == "completion" else {"messages": [{"role": "user", "content": "hello"}]}
    resume = None if state is None else Resume(frames=0, first=b"", trail=(state,))
    return Job(id="req_1", endpoint=endpoint, body=json.dumps(body).encode(), stream=False, resume=resume)


def run(work: Job) -> Result:
    async def pieces() -> list[Frames | Result]:
        return [piece async for piece in SimEngine(AT_ONCE).run(work)]

    (result,) = asyncio.run(pieces())
    assert isinstance(result, Result)
    return result


def meaning(result: Result) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(result.body)
    del answer["created"]
    return answer


def first_token_then_broken_off(work: Job) -> bytes | None:
    """Return what is left of a run that was cancelled after its first token."""

    async def main() -> None:
        told = asyncio.Event()
        begun = Job(
            id=work.id,
            endpoint=work.endpoint,
            body=work.body,
            stream=False,
            resume=work.resume,
            on_token=told.set,
            progress=work.progress,
        )
        running = asyncio.ensure_future(anext(SimEngine(ONE_TOKEN).run(begun)))
        await told.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    return work.progress.now()


@pytest.mark.parametrize(("endpoint", "fields"), SHAPES)
def test_wherever_it_is_cut_the_answer_is_that_of_an_undisturbed_run(endpoint: str, fields: dict[str, Any]) -> None:
    whole = run(job(endpoint, max_tokens=5, **fields))
    for given in range(6):
        result = run(job(endpoint, progress(given), max_tokens=5, **fields))
        assert meaning(result) == meaning(whole)
        assert result.completion_tokens == whole.completion_tokens


def test_a_run_that_is_broken_off_leaves_what_it_gave_and_the_next_goes_on_behind_it() -> None:
    state = None
    for given in range(1, 5):
        state = first_token_then_broken_off(job(state=state, max_tokens=9))
        assert state == progress(given), "each run gave one token, and none of those before"


@pytest.mark.parametrize("state", [b"", b"elsewhere", b"12", b"vllm1:12", b"sim1:", b"sim1:-3", b"sim1:x"])
def test_a_state_that_leads_nowhere_costs_nothing_but_the_tokens(state: bytes) -> None:
    assert meaning(run(job(state=state, max_tokens=3))) == meaning(run(job(max_tokens=3)))
    assert first_token_then_broken_off(job(state=state, max_tokens=3)) == progress(1)


def test_what_cannot_be_continued_leaves_nothing_and_begins_anew() -> None:
    fields: dict[str, Any] = {"response_format": {"type": "json_object"}}
    assert first_token_then_broken_off(job(max_tokens=3, **fields)) is None
    assert meaning(run(job(state=progress(2), max_tokens=3, **fields))) == meaning(run(job(max_tokens=3, **fields)))


def test_a_run_leaves_all_it_gave_when_it_has_ended() -> None:
    work = job(max_tokens=4)
    run(work)
    assert work.progress.now() == progress(4)


def test_a_run_that_has_nothing_left_to_generate_tells_of_no_token() -> None:
    told: list[int] = []
    last = job(state=progress(4), max_tokens=4)
    run(Job(id="r", endpoint="chat", body=last.body, stream=False, resume=last.resume, on_token=lambda: told.append(1)))
    assert told == []

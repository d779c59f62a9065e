"""The simulated engine behaves as a real one does, as far as a client can see."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
from typing import Any

import pytest

from workers import engine as engines
from workers.engine.base import Frames, Job, RequestRefusedError, Result
from workers.engine.sim import SimEngine, tag_of, token
from workers.engine.sim_steps import Steps
from workers.registry import ModelSpec, SimSpec

FAST = ModelSpec(id="sim", engine="sim", max_model_len=100)


def job(endpoint: str = "chat", *, stream: bool = True, **body: Any) -> Job:
    if endpoint == "chat":
        body.setdefault("messages", [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}])
    return Job(id="req_1", endpoint=endpoint, body=json.dumps(body).encode(), stream=stream)


async def _run(engine: SimEngine, work: Job) -> tuple[list[dict[str, Any]], Result]:
    frames = b""
    async for piece in engine.run(work):
        if isinstance(piece, Result):
            lines = [line for line in frames.split(b"\n\n") if line]
            return [json.loads(line.removeprefix(b"data: ")) for line in lines], piece
        frames += piece.data
    raise AssertionError("no result")


def run(work: Job, spec: ModelSpec = FAST) -> tuple[list[dict[str, Any]], Result]:
    return asyncio.run(_run(SimEngine(spec), work))


def said(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def test_it_is_chosen_by_name_only() -> None:
    assert isinstance(engines.create(FAST), SimEngine)


def test_token_i_is_the_tag_of_the_last_user_message_and_i() -> None:
    chunks, result = run(job(max_tokens=3))
    assert said(chunks) == f"{tag_of('hello')}.0 {tag_of('hello')}.1 {tag_of('hello')}.2 "
    assert (result.prompt_tokens, result.completion_tokens, result.finish_reason) == (3, 3, "length")


def test_the_role_comes_once_and_the_finish_last() -> None:
    chunks, _ = run(job(max_tokens=2))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks}) == 1


def test_usage_comes_when_asked_for() -> None:
    chunks, _ = run(job(max_tokens=2, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_every_choice_says_the_same_in_order() -> None:
    chunks, result = run(job(max_tokens=2, n=2))
    assert said(chunks, 0) == said(chunks, 1) != ""
    assert result.completion_tokens == 4


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_the_whole_answer_is_the_streamed_one(endpoint: str) -> None:
    body: dict[str, Any] = {"max_tokens": 4} | ({"prompt": "hello"} if endpoint == "completion" else {})
    _, result = run(job(endpoint, stream=False, **body))
    choice = json.loads(result.body)["choices"][0]
    text = choice["message"]["content"] if endpoint == "chat" else choice["text"]
    assert text == "".join(token(tag_of("hello"), i) for i in range(4))


def test_parts_of_a_message_are_one_text() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    chunks, _ = run(job(max_tokens=1, messages=[{"role": "user", "content": parts}]))
    assert said(chunks) == token(tag_of("hello"), 0)


def test_what_does_not_fit_the_context_is_refused_before_the_first_frame() -> None:
    with pytest.raises(RequestRefusedError) as refused:
        run(job(max_tokens=98))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")


def test_several_prompts_are_refused_clearly() -> None:
    with pytest.raises(RequestRefusedError):
        run(job("completion", prompt=["a", "b"]))


def test_an_embedding_depends_on_its_text_alone_and_has_length_one() -> None:
    _, result = run(job("embedding", stream=False, input=["a", "b", "a"]))
    vectors = [item["embedding"] for item in json.loads(result.body)["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1.0)


def test_leaving_frees_the_seat() -> None:
    async def leave() -> tuple[int, int]:
        engine = SimEngine(ModelSpec(id="sim", engine="sim", sim=SimSpec(itl_ms=1000, seats=1)))
        answer = engine.run(job(max_tokens=50))
        assert isinstance(await anext(answer), Frames)
        held = engine.load().running
        await answer.aclose()  # type: ignore[attr-defined]  # an async generator, though the protocol says iterator
        return held, engine.load().running

    assert asyncio.run(leave()) == (1, 0)


@pytest.mark.parametrize("itl_ms", [0.0, 1.0])
def test_who_wants_frames_within_the_step_is_yielded_the_result_alone(itl_ms: float) -> None:
    spec = ModelSpec(id="sim", engine="sim", sim=SimSpec(itl_ms=itl_ms))
    asked = job(max_tokens=5, n=2, stream_options={"include_usage": True})

    async def both() -> tuple[list[Frames | Result], list[Frames], list[Frames | Result]]:
        engine, given = SimEngine(spec), list[Frames]()
        left = [piece async for piece in engine.run(dataclasses.replace(asked, on_frames=given.append))]
        return left, given, [piece async for piece in engine.run(asked)]

    left, given, yielded = asyncio.run(both())
    assert [*given, *left] == yielded
    assert len(left) == 1


def test_leaving_in_the_middle_of_the_steps_ends_what_is_given() -> None:
    async def leave() -> tuple[int, int, int]:
        engine, given = SimEngine(ModelSpec(id="sim", engine="sim", sim=SimSpec(itl_ms=1, seats=1))), list[Frames]()
        first = asyncio.Event()

        def on_frames(frames: Frames) -> None:
            given.append(frames)
            first.set()

        async def ask() -> None:
            async for _ in engine.run(dataclasses.replace(job(max_tokens=50), on_frames=on_frames)):
                pass

        asking = asyncio.create_task(ask())
        await first.wait()
        held = engine.load().running
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        freed, before = engine.load().running, len(given)
        await _run(engine, job(max_tokens=5))  # some steps later
        return held, freed, len(given) - before

    assert asyncio.run(leave()) == (1, 0, 0)


@pytest.mark.parametrize("every_s", [0.001, 0.002, 0.003, 0.5])
def test_a_token_comes_at_most_two_milliseconds_late_however_slow_the_pace(
    every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def joined() -> list[tuple[float, float]]:
        loop, appointed = asyncio.get_running_loop(), list[float]()
        monkeypatch.setattr(loop, "call_at", lambda when, *_: appointed.append(when))
        steps = Steps(every_s)
        dues = [loop.time() + 10 + 0.0007 * number for number in range(40)]
        late = []
        for due in dues:
            steps.join(due, lambda: False)
            late.append((due, appointed[-1]))
        return late

    assert all(0.0 <= round(when - due, 6) <= min(every_s, 0.002) for due, when in asyncio.run(joined()))


def test_a_step_is_one_wake_up_however_many_tokens_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = Steps._take

    def counted(steps: Steps, step: int) -> None:
        taken.append(step)
        take(steps, step)

    monkeypatch.setattr(Steps, "_take", counted)

    async def talk() -> int:
        steps, due = Steps(0.001), asyncio.get_running_loop().time()
        left = [5] * 8
        ended = asyncio.Event()

        def give(mine: int) -> bool:
            left[mine] -= 1
            if not any(left):
                ended.set()
            return left[mine] > 0

        for mine in range(8):
            steps.join(due, functools.partial(give, mine))
        await ended.wait()
        return len(taken)

    assert asyncio.run(talk()) == 5
    assert taken == sorted(taken)

"""A simulated engine goes on where another was lost, and breaks when it is told to."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from workers.engine.base import Frames, Job, RequestRefusedError, Result, Resume
from workers.engine.sim import SimEngine
from workers.engine.sim_faults import EXIT_CODE
from workers.registry import ModelSpec, SimSpec

SPEC = ModelSpec(id="sim", engine="sim", max_model_len=100)
BREAKABLE = ModelSpec(id="sim", engine="sim", sim=SimSpec(faults=True))
SHAPES = [
    ("chat", {}),
    ("chat", {"n": 2}),
    ("chat", {"stream_options": {"include_usage": True}}),
    ("completion", {}),
    ("completion", {"n": 2, "stream_options": {"include_usage": True}}),
]


def job(
    endpoint: str = "chat", said: str = "hello", *, stream: bool = True, resume: Resume | None = None, **body: Any
) -> Job:
    body |= {"prompt": said} if endpoint == "completion" else {"messages": [{"role": "user", "content": said}]}
    return Job(id="req_1", endpoint=endpoint, body=json.dumps(body).encode(), stream=stream, resume=resume)


async def _run(work: Job, spec: ModelSpec) -> tuple[list[Frames], Result]:
    *frames, result = [piece async for piece in SimEngine(spec).run(work)]
    assert isinstance(result, Result)
    return [piece for piece in frames if isinstance(piece, Frames)], result


def run(work: Job, spec: ModelSpec = SPEC) -> tuple[list[Frames], Result]:
    return asyncio.run(_run(work, spec))


def resumed(sent: list[Frames]) -> Resume:
    """Return what a worker knows of a job whose frames `sent` reached the client."""
    data = b"".join(frames.data for frames in sent)
    return Resume(
        frames=data.count(b"\n\n"),
        first=data.partition(b"\n\n")[0] + b"\n\n",
        trail=tuple(frames.trail for frames in sent if frames.trail is not None),
    )


def bytes_of(frames: list[Frames]) -> bytes:
    return b"".join(piece.data for piece in frames)


@pytest.mark.parametrize(("endpoint", "fields"), SHAPES)
def test_wherever_it_is_cut_the_answer_is_that_of_an_undisturbed_run(endpoint: str, fields: dict[str, Any]) -> None:
    whole, result = run(job(endpoint, max_tokens=4, **fields))
    whole = [
        Frames(re.sub(rb'"created":\d+', b'"created":1000', piece.data), piece.trail) for piece in whole
    ]  # long ago
    for cut in range(1, len(whole) + 1):
        later, end = run(job(endpoint, max_tokens=4, resume=resumed(whole[:cut]), **fields))
        assert bytes_of(whole[:cut] + later) == bytes_of(whole)
        assert end == result


def test_it_may_be_cut_again_and_again() -> None:
    whole, _ = run(job(max_tokens=6))
    sent: list[Frames] = whole[:1]
    while len(sent) < len(whole):
        later, _ = run(job(max_tokens=6, resume=resumed(sent)))
        sent += later[:2]
    assert bytes_of(sent) == bytes_of(whole)


@pytest.mark.parametrize("trail", [(), (b"",), (b"elsewhere",), (b"0",), (b"999",)])
def test_a_trail_that_leads_nowhere_is_refused(trail: tuple[bytes, ...]) -> None:
    whole, _ = run(job(max_tokens=2))
    with pytest.raises(RequestRefusedError) as refused:
        run(job(max_tokens=2, resume=Resume(frames=1, first=whole[0].data, trail=trail)))
    assert refused.value.code == "engine_failed"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
    ],
)
def test_structured_answers_and_tool_calls_leave_no_trail(fields: dict[str, Any]) -> None:
    frames, _ = run(job(max_tokens=2, **fields))
    assert {piece.trail for piece in frames} == {None}
    assert None not in {piece.trail for piece in run(job(max_tokens=2, response_format={"type": "text"}))[0]}


def test_the_first_token_of_every_run_is_told_once() -> None:
    whole, _ = run(job(max_tokens=3))

    def told(work: Job, **fields: Any) -> int:
        times: list[int] = []
        run(Job(id="r", endpoint=work.endpoint, body=work.body, on_token=lambda: times.append(1), **fields))
        return len(times)

    assert told(job(max_tokens=3), stream=True) == 1
    assert told(job(max_tokens=3), stream=False) == 1
    assert told(job("embedding"), stream=False) == 1
    assert told(job(max_tokens=3), stream=True, resume=resumed(whole[:2])) == 1
    assert told(job(max_tokens=3), stream=True, resume=resumed(whole)) == 0  # nothing was left to generate


# Failures on demand

_SCRIPT = """
import asyncio, dataclasses, sys
from tests.workers.test_sim_engine_resume import BREAKABLE, job
from workers.engine.sim import SimEngine

async def main():
    asked = job(said=sys.argv[1], stream=sys.argv[2] == "stream", max_tokens=5)
    async for _ in SimEngine(BREAKABLE).run(dataclasses.replace(asked, on_frames=lambda _: print("frame", flush=True))):
        pass

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("said", "delivery", "frames"),
    [
        ("!exit", "stream", 0),
        ("!exit", "whole", 0),
        ("!exit-after 0", "stream", 1),
        ("!exit-after 3 please", "stream", 4),
        ("!exit-after 3", "whole", 0),
    ],
)
def test_a_message_ends_the_process(said: str, delivery: str, frames: int) -> None:
    ended = subprocess.run([sys.executable, "-c", _SCRIPT, said, delivery], capture_output=True, check=False)
    assert ended.returncode == EXIT_CODE, ended.stderr.decode()
    assert ended.stdout.split() == [b"frame"] * frames


def test_a_message_breaks_its_own_request() -> None:
    with pytest.raises(RuntimeError):
        run(job(said="!error"), BREAKABLE)


def test_a_message_stalls_its_own_request_until_it_is_cancelled() -> None:
    async def stalled() -> bool:
        asking = asyncio.create_task(_run(job(said="!stall"), BREAKABLE))
        _, other = await _run(job(max_tokens=2), BREAKABLE)
        assert other.completion_tokens == 2
        alive = not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return alive

    assert asyncio.run(stalled())


def test_a_message_stops_the_loop() -> None:
    script = _SCRIPT.replace("async def main():", "async def main():\n    print('begun', flush=True)")
    with subprocess.Popen([sys.executable, "-c", script, "!hang", "stream"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert process.poll() is None
        process.kill()
        assert process.stdout.read() == b""


@pytest.mark.parametrize("said", ["!exit", "!exit-after 1", "!error", "!stall", "!hang"])
def test_nothing_breaks_where_faults_are_not_switched_on(said: str) -> None:
    _, result = run(job(said=said, max_tokens=3))
    assert result.completion_tokens == 3


@pytest.mark.parametrize("said", ["please !exit", "!exit-after", "!exit-after soon", "!exiting"])
def test_a_message_that_only_looks_like_it_breaks_nothing(said: str) -> None:
    _, result = run(job(said=said, max_tokens=3), BREAKABLE)
    assert result.completion_tokens == 3

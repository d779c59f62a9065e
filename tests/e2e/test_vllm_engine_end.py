"""How a vLLM engine begins and ends: what a failure, a kill or a close leaves behind, which is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from tests.e2e.engine_loop import MARKS, MODEL, EngineLoop, demo, engine_processes, job, running
from tests.waiting import wait_until
from workers.engine.base import EngineDeadError, Frames, RequestRefusedError, Result
from workers.engine.vllm_args import EngineArgumentError

pytestmark = MARKS

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1900, "ignore_eos": True}


@pytest.fixture
def idle_loop() -> Iterator[EngineLoop]:
    """An engine that has not been started; the test says with what."""
    loop = EngineLoop(demo())
    yield loop
    loop.close()


def assert_nothing_is_left(loop: EngineLoop) -> None:
    assert engine_processes() == []
    assert not Path(loop.engine.scratch).exists()


def test_a_killed_engine_ends_every_request_and_leaves_nothing() -> None:
    with running(demo()) as loop:
        (process,) = engine_processes()

        async def killed() -> list[Any]:
            streamed = loop.engine.run(job("chat", CHAT, stream=True))
            whole = asyncio.create_task(loop.pieces(job("chat", CHAT)))
            assert isinstance(await anext(streamed), Frames)
            process.kill()
            rest = asyncio.create_task(drain(streamed))
            return list(await asyncio.gather(whole, rest, return_exceptions=True))

        assert [type(end) for end in loop.call(killed())] == [EngineDeadError, EngineDeadError]
        for again in (loop.engine.check(), loop.pieces(job("chat", CHAT)), loop.pieces(job("chat", CHAT, stream=True))):
            with pytest.raises(EngineDeadError):
                loop.call(again)
        assert loop.engine.load().running == 0
    assert_nothing_is_left(loop)


def test_a_stopped_engine_is_noticed_and_leaves_nothing() -> None:
    with running(demo()) as loop:
        (process,) = engine_processes()

        async def stopped() -> Any:
            streamed = loop.engine.run(job("chat", CHAT, stream=True))
            assert isinstance(await anext(streamed), Frames)
            process.suspend()
            rest = asyncio.create_task(drain(streamed))
            with pytest.raises(EngineDeadError, match="stopped by a signal"):
                await watched(loop.engine)
            return (await asyncio.gather(rest, return_exceptions=True))[0]

        assert isinstance(loop.call(stopped()), EngineDeadError)
    assert_nothing_is_left(loop)


async def watched(engine: Any) -> None:
    """Check as a worker does, until the engine is given up."""
    while True:
        await engine.check()
        await asyncio.sleep(0.5)


async def drain(pieces: Any) -> None:
    async for _ in pieces:
        pass


def test_closing_ends_every_request_and_leaves_nothing() -> None:
    with running(demo()) as loop:

        async def closed() -> list[Any]:
            whole = asyncio.create_task(loop.pieces(job("chat", CHAT)))
            streamed = loop.engine.run(job("chat", CHAT, stream=True))
            assert isinstance(await anext(streamed), Frames)
            rest = asyncio.create_task(drain(streamed))
            await loop.engine.close()
            return list(await asyncio.gather(whole, rest, return_exceptions=True))

        assert [type(end) for end in loop.call(closed())] == [EngineDeadError, EngineDeadError]
        with pytest.raises(EngineDeadError):
            loop.call(loop.pieces(job("chat", CHAT)))
    assert_nothing_is_left(loop)


def test_an_engine_whose_worker_is_killed_ends_too() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.engine_holder"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with worker:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        pid, scratch = line.split()
        engine = psutil.Process(int(pid))
        worker.kill()
        worker.wait()
    wait_until(lambda: not engine.is_running(), "the engine of a killed worker has ended")
    assert not Path(scratch).exists()


def test_a_load_that_fails_says_why_and_leaves_nothing(idle_loop: EngineLoop, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(MODEL, broken)
    config = orjson.loads((broken / "config.json").read_bytes())
    (broken / "config.json").write_bytes(orjson.dumps(config | {"num_hidden_layers": 5}))  # the file has 4
    idle_loop.engine = type(idle_loop.engine)(demo(path=str(broken)))
    with pytest.raises(Exception, match="model demo: vLLM could not load"):
        idle_loop.start()
    idle_loop.call(idle_loop.engine.close())
    assert_nothing_is_left(idle_loop)


def test_closing_while_it_loads_leaves_nothing(idle_loop: EngineLoop) -> None:
    async def interrupted() -> None:
        starting = asyncio.create_task(idle_loop.engine.start())
        await asyncio.to_thread(wait_until, engine_processes, "the engine's process", timeout_s=60)
        starting.cancel("stopping")
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await idle_loop.engine.close()

    idle_loop.call(interrupted())
    assert_nothing_is_left(idle_loop)


@pytest.mark.parametrize(
    ("engine_args", "named"),
    [
        ({"max_model_length": 100}, "max_model_length"),
        ({"max_model_len": "much"}, "max-model-len"),
        ({"enable_log_requests": True}, "enable_log_requests"),
        ({"model": "other"}, "path"),
    ],
)
def test_a_wrong_engine_argument_is_named(idle_loop: EngineLoop, engine_args: dict[str, Any], named: str) -> None:
    idle_loop.engine = type(idle_loop.engine)(demo(engine_args=engine_args))
    with pytest.raises(EngineArgumentError, match=f"model demo: .*{named}"):
        idle_loop.start()


def test_a_pooling_model_embeds_and_does_not_chat() -> None:
    with running(demo(tool_call_parser=None, engine_args={"runner": "pooling", "convert": "embed"})) as loop:
        assert loop.engine.endpoints == {"embedding"}
        one, two = ({"input": text} for text in ("Celerity", ["Celerity", "a queue"]))
        answer = loop.answer("embedding", one)
        assert answer["model"] == "demo"
        width = orjson.loads((MODEL / "config.json").read_bytes())["hidden_size"]
        assert len(answer["data"][0]["embedding"]) == width
        assert [row["index"] for row in loop.answer("embedding", two)["data"]] == [0, 1]
        asked = job("embedding", two | {"encoding_format": "base64"})
        told: list[int] = []
        (result,) = loop.call(loop.pieces(dataclasses.replace(asked, on_token=lambda: told.append(1))))
        assert told == [1]
        assert isinstance(result, Result)
        assert result.prompt_tokens > 2
        for endpoint, body in (("chat", CHAT), ("embedding", {"input": "word " * 3000}), ("embedding", {})):
            with pytest.raises(RequestRefusedError) as caught:
                loop.call(loop.pieces(job(endpoint, body)))
            assert caught.value.code in ("unsupported_endpoint", "context_length_exceeded", "invalid_request")
        assert loop.engine.unfinished() == 0
    assert_nothing_is_left(loop)

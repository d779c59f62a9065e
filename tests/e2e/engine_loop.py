"""A real vLLM engine on a loop in a thread of its own, as an engine worker has it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
import psutil
import pytest

from workers import engine as engines
from workers.engine.base import Frames, Job, Result
from workers.registry import ModelSpec

T = TypeVar("T")

MODEL = Path(__file__).parents[2] / "deploy" / "demo_model" / "model"
# Under pytest every warning is an error; those of vLLM and its libraries are not ours to mend.
MARKS = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None and "CI" not in os.environ, reason="vLLM is not installed"
    ),
]
_START_S = 300.0
_ANSWER_S = 120.0
_ids = itertools.count(1)


def demo(**changes: Any) -> ModelSpec:
    """Return the entry of the demo model, as models.yaml would have it."""
    values: dict[str, Any] = {"id": "demo", "path": str(MODEL), "memory_mib": 1200, "tool_call_parser": "hermes"}
    return ModelSpec(**values | changes)


def job(endpoint: str, body: dict[str, Any], *, stream: bool = False) -> Job:
    return Job(id=f"e2e{next(_ids)}", endpoint=endpoint, body=orjson.dumps(body), stream=stream)


class EngineLoop:
    """Starts and closes an engine, and runs jobs on it, from the thread of a test."""

    def __init__(self, spec: ModelSpec) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.engine: Any = engines.create(spec)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = _ANSWER_S) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def start(self) -> None:
        self.call(self.engine.start(), _START_S)

    def close(self) -> None:
        try:
            self.call(self.engine.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def answer(self, endpoint: str, body: dict[str, Any]) -> Any:
        """Return the whole answer to a request that does not stream."""
        (result,) = self.call(self.pieces(job(endpoint, body)))
        assert isinstance(result, Result)
        return orjson.loads(result.body)

    def chunks(self, endpoint: str, body: dict[str, Any]) -> tuple[list[Any], Result]:
        """Return the parsed frames of a streamed answer, and its result."""
        *frames, result = self.call(self.pieces(job(endpoint, body, stream=True)))
        assert isinstance(result, Result)
        return [chunk for frame in frames if isinstance(frame, Frames) for chunk in parse(frame)], result

    async def pieces(self, one: Job) -> list[Frames | Result]:
        return [piece async for piece in self.engine.run(one)]


def engine_processes() -> list[psutil.Process]:
    """Return the processes that vLLM has started from this one and that still run.

    An engine worker that is our child, as the whole system's is, has engine processes of its own.
    """
    started = [
        child for child in psutil.Process().children() if "VLLM::" in _title(child) or "spawn_main" in _title(child)
    ]
    return [process for child in started for process in (child, *child.children(recursive=True))]


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def parse(frames: Frames) -> list[Any]:
    """Return the JSON of each whole SSE frame."""
    assert frames.data.endswith(b"\n\n")
    return [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames.data.split(b"\n\n") if frame]


@contextlib.contextmanager
def running(spec: ModelSpec) -> Iterator[EngineLoop]:
    """Start an engine, and close it whatever happens, also while it starts."""
    loop = EngineLoop(spec)
    try:
        loop.start()
        yield loop
    finally:
        loop.close()

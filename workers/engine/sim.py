"""An engine without weights, for load tests, capacity planning and our own tests.

Its i-th token is the text `TAG.i ` (a trailing space), where TAG is the first four hex
digits of the SHA-256 of the last user message: a gap, a repeat or a token of somebody
else's answer shows at a glance. It keeps seats, limits, pacing and cancellation as a
real engine does, and writes frames of the same shape. It is never chosen unless named.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from workers.engine.base import EngineLoad, Frames, Job, Result, SleepNeed
from workers.engine.frame_buffer import FrameBuffer
from workers.engine.sim_answers import (
    Plan,
    answer,
    embed,
    make_plan,
    progress,
    result,
    tag_of,
    token,
    tokens_given,
)
from workers.engine.sim_faults import NONE, Fault, fault_in
from workers.engine.sim_steps import Steps
from workers.engine.sim_stream import SimStream
from workers.registry import ModelSpec

__all__ = ["SimEngine", "tag_of", "token"]


class SimEngine:
    """Answers after the waits that `spec.sim` states, whatever the machine could do."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._running = 0
        self._steps = Steps(spec.sim.itl_ms / 1000)
        self._awake = asyncio.Event()
        self._awake.set()

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset({"chat", "completion", "embedding"})

    @property
    def sleep_need(self) -> SleepNeed | None:
        kept = self._spec.sim.sleep_mib
        return None if kept is None else SleepNeed(device_mib=kept, ram_mib=0)

    @property
    def kv_mib(self) -> int | None:
        return None

    async def start(self) -> None:
        await asyncio.sleep(self._spec.sim.load_s)

    def room_beside(self, requests: int, slowdown: float) -> int | None:
        return None  # its tokens take as long as it was told, however many it gives

    async def check(self) -> None:
        return

    async def sleep(self) -> None:
        self._awake.clear()
        await asyncio.sleep(self._spec.sim.sleep_s)

    async def wake(self) -> None:
        if not self._awake.is_set():
            await asyncio.sleep(self._spec.sim.wake_s)
            self._awake.set()

    async def close(self) -> None:
        return

    def load(self) -> EngineLoad:
        seats = self._spec.sim.seats
        return EngineLoad(
            seats=seats,
            running=self._running,
            waiting=max(0, self._running - seats),
            # Its seats run out first: a cache that is nearly full closes the gate before the last of them is taken.
            kv_usage=min(1.0, 0.9 * self._running / seats),
        )

    async def run(self, job: Job) -> AsyncIterator[Frames | Result]:
        body: dict[str, Any] = orjson.loads(job.body)
        self._running += 1
        try:
            await self._awake.wait()
            if job.endpoint == "embedding":
                await self._pause(self._spec.sim.ttft_ms)
                job.on_token()
                yield embed(self._spec.id, job.id, body)
                return
            plan = make_plan(self._spec, job, body, now_s=int(time.time()))
            fault = fault_in(plan.last_words) if self._spec.sim.faults else NONE
            await fault.before_tokens()
            if job.stream:
                async for piece in self._stream(job, plan, fault):
                    yield piece
            else:
                await self._whole(job, plan, fault)
                yield result(plan, orjson.dumps(answer(plan)))
        finally:
            self._running -= 1

    async def _stream(self, job: Job, plan: Plan, fault: Fault) -> AsyncIterator[Frames | Result]:
        began, buffer = asyncio.get_running_loop().time(), FrameBuffer()
        stream = SimStream(plan, job, fault, job.on_frames or buffer.put)
        first_at = began + self._spec.sim.ttft_ms / 1000
        try:
            await _until(first_at, began)
            if stream.step():
                self._steps.join(first_at + self._spec.sim.itl_ms / 1000, stream.step)
            if job.on_frames is None:
                async for frames in buffer.until(stream.ended):
                    yield frames
            yield await stream.ended
        finally:
            stream.ended.cancel()

    async def _whole(self, job: Job, plan: Plan, fault: Fault) -> None:
        """Take as long as those tokens take that no earlier run has given."""
        clock = asyncio.get_running_loop().time
        itl_s, before = self._spec.sim.itl_ms / 1000, tokens_given(plan, job.resume)
        left = plan.tokens - before
        await self._pause(self._spec.sim.ttft_ms)
        fault.after_tokens(0)
        if not left:
            return
        first_at = clock()

        def given() -> int:
            return left if itl_s <= 0 else min(left, 1 + int((clock() - first_at) / itl_s))

        job.progress.follow(lambda: progress(before + given()) if plan.continuable else None)
        job.on_token()
        try:
            if fault.exit_after is not None and 0 < fault.exit_after <= left:
                await _until(first_at + itl_s * (fault.exit_after - 1), clock())
                fault.after_tokens(fault.exit_after)
            await _until(first_at + itl_s * (left - 1), clock())
        finally:
            job.progress.freeze()

    async def _pause(self, ms: float) -> None:
        await _until(ms / 1000, 0.0)


async def _until(due: float, now: float) -> None:
    """Wait for a moment rather than for a time, so that pacing does not drift under load."""
    if due > now:
        await asyncio.sleep(due - now)

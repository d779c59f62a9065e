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
from workers.engine.sim_answers import Plan, answer, embed, make_plan, pieces, pieces_sent, result, tag_of, token
from workers.engine.sim_faults import NONE, Fault, fault_in
from workers.registry import ModelSpec

__all__ = ["SimEngine", "tag_of", "token"]


class SimEngine:
    """Answers after the waits that `spec.sim` states, whatever the machine could do."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._running = 0
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
            kv_usage=min(1.0, self._running / seats),
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
                async for frames in self._stream(job, plan, fault):
                    yield frames
                yield result(plan, b"")
            else:
                await self._whole(job, plan, fault)
                yield result(plan, orjson.dumps(answer(plan)))
        finally:
            self._running -= 1

    async def _stream(self, job: Job, plan: Plan, fault: Fault) -> AsyncIterator[Frames]:
        """Yield what comes after the frames that the client has. A trail counts the pieces up to its own."""
        clock = asyncio.get_running_loop().time
        due = clock() + self._spec.sim.ttft_ms / 1000
        sent = pieces_sent(plan, job.resume)
        given = 0
        for number, frames in enumerate(pieces(plan), start=1):
            if number <= sent:
                continue
            if number <= plan.tokens + 1:
                await _until(due, clock())
            if number > 1:
                fault.after_tokens(given)
            if 1 < number <= plan.tokens + 1:
                due += self._spec.sim.itl_ms / 1000
                given += 1
                if given == 1:
                    job.on_token()
            if frames:
                yield Frames(frames, b"%d" % number if plan.continuable else None)

    async def _whole(self, job: Job, plan: Plan, fault: Fault) -> None:
        """Take as long as the answer takes."""
        itl_ms = self._spec.sim.itl_ms
        await self._pause(self._spec.sim.ttft_ms)
        fault.after_tokens(0)
        job.on_token()
        if fault.exit_after is not None and fault.exit_after <= plan.tokens:
            await self._pause(itl_ms * (fault.exit_after - 1))
            fault.after_tokens(fault.exit_after)
        await self._pause(itl_ms * max(0, plan.tokens - 1))

    async def _pause(self, ms: float) -> None:
        await asyncio.sleep(ms / 1000)


async def _until(due: float, now: float) -> None:
    """Wait for a moment rather than for a time, so that pacing does not drift under load."""
    await asyncio.sleep(max(0.0, due - now))

"""The task behind every answer: claim a call, run it on the engine, write its stream.

`tasks.infer` runs on the engine's loop, hundreds at once (`workers.host.pool`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass
from typing import assert_never

import redis

from tasks.app import app
from tasks.envelope import INFER
from tasks.messages import Call, Done, Failed
from tasks.request_store import Claim, ClaimStore, Refusal, Verdict
from tasks.streams import Outlet, StreamWriter
from workers.engine.base import Engine, EngineDeadError, Frames, Job, RequestRefusedError, Result
from workers.host.coroutine_task import CoroutineTask, RequeueError
from workers.host.resident import STOPPING, TIME_LIMIT, Die

log = logging.getLogger(__name__)

# A call that a live worker holds was delivered twice. We look again this often, so that
# we take it over when that worker dies.
_HELD_S = 1.0
_RETRY_S = 0.2

_DEAD = Failed("engine_failed", "The engine died while it answered; repeat the request.")
_STOPPED = Failed("engine_failed", "The worker had to stop before the answer was complete; repeat the request.")
_LATE = Failed("deadline_exceeded", "The answer took longer than the server allows; ask for fewer tokens.")
_BROKEN = Failed("internal_error", "The server failed to answer; the request id is in the server's log.")
_VERDICTS = {
    Verdict.EXPIRED: Failed("deadline_exceeded", "The request waited for the model longer than the server allows."),
    Verdict.EXHAUSTED: Failed("engine_failed", "Every worker that ran the request has died; it is not tried again."),
    Verdict.BEGUN: Failed("engine_failed", "The worker died in the middle of the answer; repeat the request."),
}


@app.task(base=CoroutineTask, name=INFER)  # type: ignore[untyped-decorator]  # celery ships no types
async def infer(request_id: str) -> str:
    """Answer the call that was admitted under this id. Returns how that went, for Celery's log."""
    inference: Inference = app.resident.inference
    return await inference.serve(request_id)


@dataclass(slots=True)
class _Held:
    """A delivery this worker has taken; the same call may be delivered twice."""

    request_id: str
    task: asyncio.Task[object]
    gateway: str = ""
    dropped: bool = False

    def drop(self) -> None:
        """Nobody wants the answer any more."""
        self.dropped = True
        self.task.cancel()


class Inference:
    """Answers calls on one engine. Everything runs on its loop, except `gateways`."""

    def __init__(self, engine: Engine, claims: ClaimStore, writer: StreamWriter, die: Die) -> None:
        self._engine = engine
        self._claims = claims
        self._writer = writer
        self._die = die
        self._held: dict[asyncio.Task[object], _Held] = {}
        self.last_used_at: float | None = None

    def gateways(self) -> frozenset[str]:
        """Return the gateways that wait for something held here. Callable from any thread."""
        return frozenset(held.gateway for held in list(self._held.values()) if held.gateway)

    def drop(self, request_id: str) -> None:
        """Abort the call if it is held here; its client has left."""
        for held in self._held.values():
            if held.request_id == request_id:
                held.drop()

    def drop_of_gateways(self, gateways: frozenset[str]) -> None:
        """Abort what dead gateways were waiting for."""
        for held in self._held.values():
            if held.gateway in gateways:
                held.drop()

    async def serve(self, request_id: str) -> str:
        """Claim and answer a call. Returns a word on how it went.

        Raises RequeueError when another worker should have it.
        """
        task = asyncio.current_task()
        assert task is not None
        # Before the claim: a cancellation may overtake the claim's own reply.
        held = self._held[task] = _Held(request_id, task)
        try:
            return await self._serve(held)
        except asyncio.CancelledError:
            if held.dropped:
                return "cancelled"
            raise
        finally:
            del self._held[task]

    async def _serve(self, held: _Held) -> str:
        claim = await self._claim(held)
        while isinstance(claim, Refusal):
            if claim.verdict is Verdict.GONE:
                return "gone"
            if claim.verdict is not Verdict.HELD:
                return await self._refuse(held.request_id, claim)
            await asyncio.sleep(_HELD_S)
            claim = await self._claim(held)
        if held.dropped:
            # redis-py can swallow a cancellation that arrives together with a reply.
            raise asyncio.CancelledError
        self.last_used_at = time.time()
        held.gateway = claim.call.gateway
        outlet = self._writer.open(held.request_id, claim.attempt, lost=held.drop)
        try:
            return await self._answer(claim.call, outlet)
        except asyncio.CancelledError as error:
            if held.dropped:
                self._writer.discard(outlet)
                raise
            return await self._interrupted(outlet, str(error))

    async def _claim(self, held: _Held) -> Claim | Refusal:
        """Claim, and go on trying while Redis is away: to fail would take the call from the queue unanswered."""
        token = uuid.uuid4().hex
        while True:
            try:
                return await self._claims.claim(held.request_id, token)
            except (redis.ConnectionError, redis.TimeoutError, OSError):
                await asyncio.sleep(_RETRY_S)

    async def _answer(self, call: Call, outlet: Outlet) -> str:
        last: Done | Failed
        try:
            last = await self._generate(call, outlet)
        except RequestRefusedError as error:
            last = Failed(error.code, error.message, error.param)
        except EngineDeadError as error:
            self._die(f"the engine died: {error}")
            return await self._give_up(outlet, _DEAD)
        except Exception as error:  # noqa: BLE001 - process boundary: one broken request must not take the others along
            # The text of a foreign exception may hold the prompt; its class and place do not.
            log.error("request broke", extra={"event": "request_broke", "request": call.id, "reason": _place(error)})
            last = _BROKEN
        await self._writer.end(outlet, last)
        return last.code if isinstance(last, Failed) else "done"

    async def _generate(self, call: Call, outlet: Outlet) -> Done:
        job = Job(id=call.id, endpoint=call.endpoint.value, body=call.body, stream=call.stream)
        async for piece in self._engine.run(job):
            match piece:
                case Frames(data):
                    self._writer.delta(outlet, data)
                case Result():
                    return Done(
                        finish_reason=piece.finish_reason,
                        prompt_tokens=piece.prompt_tokens,
                        completion_tokens=piece.completion_tokens,
                        body=piece.body,
                    )
                case _:
                    assert_never(piece)
        raise RuntimeError("the engine ended an answer without a result")

    async def _interrupted(self, outlet: Outlet, reason: str) -> str:
        """The pool cancelled us: a time limit, a revoke, or the worker must stop."""
        if reason == STOPPING:
            return await self._give_up(outlet, _STOPPED)
        await self._writer.end(outlet, _LATE if reason == TIME_LIMIT else _STOPPED)
        return reason

    async def _give_up(self, outlet: Outlet, failed: Failed) -> str:
        """Let another worker have the call if nothing of the answer was sent; end it with an error otherwise."""
        if not outlet.begun and await self._claims.release(outlet.request_id):
            self._writer.discard(outlet)
            raise RequeueError(failed.message)
        await self._writer.end(outlet, failed)
        return failed.code

    async def _refuse(self, request_id: str, refusal: Refusal) -> str:
        """Tell whoever waits why the call will not be answered."""
        failed = _VERDICTS[refusal.verdict]
        await self._writer.end(self._writer.open(request_id, refusal.attempt, lost=_ignore), failed)
        return failed.code


def _ignore() -> None:
    """Nobody is there to be told."""


def _place(error: BaseException) -> str:
    """Return an exception's class and where it was raised, without its text."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace else None
    where = f" in {code.co_qualname}:{trace.tb_lineno}" if code and trace else ""
    return type(error).__name__ + where

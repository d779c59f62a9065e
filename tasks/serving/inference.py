"""The task behind every answer: claim a call, run it on the engine, write its stream.

`tasks.infer` runs on the engine's loop, hundreds at once (`workers.host.pool`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from typing import assert_never

from tasks.app import app
from tasks.envelope import INFER
from tasks.messages import Done, Failed
from tasks.records.circuit import Circuit
from tasks.requests.requeue import Cause, Fate
from tasks.serving.checkpoints import Checkpoints
from tasks.serving.claim_store import Claim, ClaimStore, Refusal, Verdict
from tasks.serving.continuation import BrokenAnswerError, resume_of
from tasks.serving.endings import THROWN, announce
from tasks.serving.held import Held, Release
from tasks.serving.outlet import Outlet
from tasks.serving.patience import until_told
from tasks.serving.streams import StreamWriter
from tasks.serving.suspects import SuspectSeat
from workers.engine.base import Engine, EngineDeadError, Frames, Job, RequestRefusedError, Result, Resume
from workers.host.coroutine_task import CoroutineTask
from workers.host.resident import STOPPING, TIME_LIMIT, Die

log = logging.getLogger(__name__)

_ENGINES_FAULT = frozenset({"engine_failed", "internal_error"})

_STOPPED = Failed("engine_failed", "The worker had to stop before the answer was complete; repeat the request.")
_LATE = Failed("deadline_exceeded", "The answer took longer than the server allows; ask for fewer tokens.")
_BROKEN = Failed("internal_error", "The server failed to answer; the request id is in the server's log.")
_REFUSALS = {
    Verdict.EXPIRED: Failed("deadline_exceeded", "The request waited for the model longer than the server allows."),
    Verdict.UNREADABLE: _BROKEN,
}
_CUT = Failed("engine_failed", "A worker was lost, and the answer cannot be continued; repeat the request.")


@app.task(base=CoroutineTask, name=INFER, throws=THROWN)  # type: ignore[untyped-decorator]  # celery ships no types
async def infer(request_id: str) -> str:
    """Answer the call that was admitted under this id. Returns or raises how that went, for Celery's monitors."""
    inference: Inference = app.resident.inference
    return announce(await inference.serve(request_id))


class Inference:
    """Answers calls on one engine. Everything runs on its loop, except `gateways`."""

    def __init__(self, engine: Engine, claims: ClaimStore, writer: StreamWriter, circuit: Circuit, die: Die) -> None:
        self._engine = engine
        self._claims = claims
        self._writer = writer
        self._circuit = circuit
        self._die = die
        self._held: dict[asyncio.Task[object], Held] = {}
        self._suspects = SuspectSeat(claims)
        self.checkpoints = Checkpoints(claims, self._held.values)
        self._engine_died = False
        self._run, self._deliveries = uuid.uuid4().hex, itertools.count()
        self.last_used_at: float | None = None

    @property
    def busy(self) -> bool:
        return bool(self._held)

    def gateways(self) -> frozenset[str]:
        """Return the gateways that wait for something held here. Callable from any thread."""
        return frozenset(held.gateway for held in list(self._held.values()) if held.gateway)

    def drop(self, request_id: str) -> None:
        """Abort the call if it is held here; its client has left."""
        for held in list(self._held.values()):
            if held.request_id == request_id:
                held.release(Release.GONE)

    def drop_of_gateways(self, gateways: frozenset[str]) -> None:
        """Abort what dead gateways were waiting for."""
        for held in list(self._held.values()):
            if held.gateway in gateways:
                held.release(Release.ABANDONED)

    def give_up_all(self) -> None:
        """Abort everything: Redis has been out of reach so long that others have taken over."""
        for held in list(self._held.values()):
            # What is still being claimed goes on asking: to let it go would acknowledge its message.
            if held.claim is not None:
                held.release(Release.TO_QUEUE)

    def holding(self) -> tuple[int, int]:
        """Return how many calls stay here until they end: interactive ones (and unknown ones, still claimed), bulk.

        Callable from any thread.
        """
        staying = [held for held in list(self._held.values()) if held.released is None]
        bulk = sum(held.bulk for held in staying)
        return len(staying) - bulk, bulk

    def put_back(self, count: int) -> int:
        """Give up to `count` bulk calls back to their queue, those first that came last. Returns how many."""
        movable = [held for held in self._held.values() if held.bulk and held.can_move]
        chosen = movable[::-1][:count]
        for held in chosen:
            held.release(Release.TO_QUEUE)
        return len(chosen)

    def engine_died(self, error: EngineDeadError) -> None:
        """End the worker; whatever runs was there when the engine died."""
        self._engine_died = True
        self._die(f"the engine died: {error}")

    async def verify(self) -> None:
        """Abort what is no longer ours, after others may have thought us dead, or Redis was restarted."""
        await until_told(self._verify)

    async def _verify(self) -> None:
        claims = {held.request_id: held for held in self._held.values() if held.claim is not None}
        ours = await self._claims.ours({name: held.attempt for name, held in claims.items()})
        for request_id, held in claims.items():
            if request_id not in ours and held.claim is not None:
                log.warning("claim lost", extra={"event": "claim_lost", "request": request_id})
                await self._claims.mend(held.claim.call)
                held.release(Release.GONE)

    async def serve(self, request_id: str) -> str:
        """Claim and answer a call. Returns a word on how it went."""
        task = asyncio.current_task()
        assert task is not None
        # Before the claim: a cancellation may overtake the claim's own reply.
        held = self._held[task] = Held(request_id, task)
        try:
            return await self._serve(held)
        except asyncio.CancelledError:
            if held.released is None:
                raise
            return await self._let_go(held)
        finally:
            del self._held[task]

    async def _serve(self, held: Held) -> str:
        claim = await self._claim(held)
        if isinstance(claim, Refusal):
            return await self._refuse(held, claim)
        held.claim = claim
        if held.released is not None:
            # redis-py can swallow a cancellation that arrives together with a reply.
            raise asyncio.CancelledError
        self.last_used_at = time.time()
        outlet = held.outlet = Outlet(held.request_id, claim.attempt, lost=held.lose, keep_s=claim.call.keep_s)
        try:
            return await self._answer(held, claim, outlet)
        except asyncio.CancelledError as error:
            if held.released is not None:
                self._writer.discard(outlet)
                raise
            return await self._interrupted(held, claim, outlet, str(error))

    async def _claim(self, held: Held) -> Claim | Refusal:
        """Claim, and go on trying while Redis is away or full: to fail would take the call's message unanswered."""
        token = f"{self._run}.{next(self._deliveries)}"
        return await until_told(lambda: self._claims.claim(held.request_id, token))

    async def _refuse(self, held: Held, refusal: Refusal) -> str:
        """Tell whoever waits why the call will not be answered, where they do not know."""
        if (failed := _REFUSALS.get(refusal.verdict)) is not None:
            extra = {"event": f"request_{refusal.verdict.value}", "request": held.request_id}
            log.warning("request not run", extra=extra)
            await self._writer.end(Outlet(held.request_id, refusal.attempt, held.lose, refusal.keep_s), failed)
        return refusal.verdict.value

    async def _answer(self, held: Held, claim: Claim, outlet: Outlet) -> str:
        last: Done | Failed
        call, began = claim.call, time.monotonic()
        blamed = Cause.GIVES_UP
        try:
            resume = await self._resume(claim)
            # An engine that is dead already did not die of this request.
            await self._engine.check()
            blamed = Cause.ENGINE_DIED
            async with self._suspects.of(claim) as on_token:
                job = Job(
                    id=call.id,
                    endpoint=call.endpoint.value,
                    body=call.body,
                    stream=call.stream,
                    resume=resume,
                    on_token=on_token,
                    progress=held.progress,
                    on_frames=lambda frames: self._writer.delta(outlet, frames.data, frames.trail),
                )
                last = await self._generate(job, outlet)
        except RequestRefusedError as error:
            last = Failed(error.code, error.message, error.param)
        except BrokenAnswerError as error:
            log.warning("answer broken", extra={"event": "answer_broken", "request": call.id, "reason": str(error)})
            await self._writer.end(outlet, _CUT)
            return _CUT.code
        except EngineDeadError as error:
            self.engine_died(error)
            return await self._requeue(claim, outlet, blamed)
        except Exception as error:  # noqa: BLE001 - process boundary: one broken request must not take the others along
            # The text of a foreign exception may hold the prompt; its class and place do not.
            log.error("request broke", extra={"event": "request_broke", "request": call.id, "reason": _place(error)})
            last = _BROKEN
        self._note(last, began)
        await self._writer.end(outlet, last)
        return last.code if isinstance(last, Failed) else "done"

    def _note(self, last: Done | Failed, began: float) -> None:
        """Tell the circuit how the engine did; a refusal that is the client's own doing says nothing of it."""
        if isinstance(last, Done) or last.code in _ENGINES_FAULT:
            self._circuit.note(ok=isinstance(last, Done), began=began, now=time.monotonic())

    async def _resume(self, claim: Claim) -> Resume | None:
        """Return where an earlier attempt has left the answer; None when it begins here."""
        if not claim.call.stream and claim.state:
            return Resume(frames=0, first=b"", trail=(claim.state,))
        if not claim.after:
            return None
        return resume_of(await until_told(lambda: self._claims.written(claim.call.id)), claim.after)

    async def _generate(self, job: Job, outlet: Outlet) -> Done:
        done = None
        # To its end: what is left behind in the middle costs the loop a task that closes it.
        async for piece in self._engine.run(job):
            match piece:
                case Frames(data, trail):
                    self._writer.delta(outlet, data, trail)
                case Result():
                    done = Done(
                        finish_reason=piece.finish_reason,
                        prompt_tokens=piece.prompt_tokens,
                        completion_tokens=piece.completion_tokens,
                        body=piece.body,
                    )
                case _:
                    assert_never(piece)
        if done is None:
            raise RuntimeError("the engine ended an answer without a result")
        return done

    async def _interrupted(self, held: Held, claim: Claim, outlet: Outlet, reason: str) -> str:
        """The pool cancelled us: a time limit, a revoke, or the worker must stop."""
        if reason == STOPPING:
            if self._engine_died:
                return await self._requeue(claim, outlet, Cause.ENGINE_DIED)
            return await self._requeue(claim, outlet, Cause.GIVES_UP, held.progress.now() or b"")
        await self._writer.end(outlet, _LATE if reason == TIME_LIMIT else _STOPPED)
        return reason

    async def _let_go(self, held: Held) -> str:
        match held.released:
            case Release.ABANDONED if held.claim is not None:
                await until_told(lambda: self._claims.drop(held.request_id, held.attempt))
            case Release.TO_QUEUE if held.claim is not None:
                return await self._requeue(held.claim, None, Cause.GIVES_UP, held.progress.now() or b"")
            case _:
                pass
        return "cancelled"

    async def _requeue(self, claim: Claim, outlet: Outlet | None, cause: Cause, state: bytes = b"") -> str:
        """Give the call to another worker, however long Redis is away; when we end before that, a reaper does it.

        `state` is how far we have come with an answer that does not stream.
        """
        if outlet is not None:
            self._writer.discard(outlet)
        fate = await until_told(lambda: self._give_back(claim, cause, state))
        extra = {"event": "request_given_up", "request": claim.call.id, "cause": cause.value}
        log.info("request given up", extra=extra | {"fate": fate.value})
        return fate.value

    async def _give_back(self, claim: Claim, cause: Cause, state: bytes) -> Fate:
        fate = await self._claims.requeue(claim.call, claim.attempt, cause, state)
        if fate is Fate.NOT_HELD:
            # Cancelled, or somebody else's; or Redis was restarted from before our claim,
            # and our message is acknowledged as soon as we return.
            await self._claims.mend(claim.call)
        return fate


def _place(error: BaseException) -> str:
    """Return an exception's class and where it was raised, without its text."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace else None
    where = f" in {code.co_qualname}:{trace.tb_lineno}" if code and trace else ""
    return type(error).__name__ + where

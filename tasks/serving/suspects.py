"""Calls that were there when a worker died run one at a time until they give a token.

A call that kills engines kills at once, together with everything in the same batch.
Were its neighbours run beside it again, they would be there at the second death too, and
be condemned with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from tasks.serving.claim_store import Claim, ClaimStore, Danger
from tasks.serving.patience import until_told

OnToken = Callable[[], None]


class SuspectSeat:
    """The one seat of a worker for suspects; all others pass by. Everything runs on one loop."""

    def __init__(self, claims: ClaimStore) -> None:
        self._claims = claims
        self._seat = asyncio.Lock()
        self._marking: set[asyncio.Task[None]] = set()

    def of(self, claim: Claim) -> AbstractAsyncContextManager[OnToken]:
        """Wait for the seat if the call is suspect. Gives what is to be called at its first token."""
        return self._alone(claim) if claim.suspect else nullcontext(_nothing)

    @asynccontextmanager
    async def _alone(self, claim: Claim) -> AsyncIterator[OnToken]:
        taken = False

        def leave() -> None:
            nonlocal taken
            if taken:
                taken = False
                self._seat.release()

        def on_token() -> None:
            if taken:
                leave()
                task = asyncio.ensure_future(self._mark(claim, Danger.SPOKE))
                self._marking.add(task)
                task.add_done_callback(self._marking.discard)

        await self._seat.acquire()
        taken = True
        try:
            await self._mark(claim, Danger.RUNS)
            yield on_token
        finally:
            leave()

    async def _mark(self, claim: Claim, danger: Danger) -> None:
        await until_told(lambda: self._claims.mark(claim.call.id, claim.attempt, danger))


def _nothing() -> None:
    """A call above suspicion needs nothing."""

"""Calls that were there when a worker died, and those that may not be moved again, begin one at a time.

A call that kills engines mostly kills at once, together with everything in the same batch.
Were its neighbours run beside it again, they would be there at the second death too, and
be condemned with it. One that kills after some tokens is moved like any other: so those
that were there as often as an answer may be moved have a moment to themselves as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from tasks.serving.claim_store import Claim, ClaimStore, Danger
from tasks.serving.patience import until_told

OnToken = Callable[[], None]

# From the first token of a call that may not be moved again until the next of them begins.
MOMENT_S = 0.5


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
        taken = spoke = False

        def leave() -> None:
            nonlocal taken
            if taken:
                taken = False
                self._seat.release()

        def on_token() -> None:
            nonlocal spoke
            if spoke:
                return
            spoke = True
            task = asyncio.ensure_future(self._mark(claim, Danger.SPOKE))
            self._marking.add(task)
            task.add_done_callback(self._marking.discard)
            if claim.at_last_move:
                task.get_loop().call_later(MOMENT_S, leave)
            else:
                leave()

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

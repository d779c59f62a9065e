"""A streamed answer of the simulated engine, given step by step.

As in a real engine, the frames of all answers are handed over within the step: to wake a
task for each of its tokens would cost a request more than all else that is done for it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from workers.engine.base import Frames, Job, Result
from workers.engine.sim_answers import Plan, pieces, pieces_sent, result
from workers.engine.sim_faults import Fault


class SimStream:
    """What comes after the frames that the client has. A trail counts the pieces up to its own.

    `deliver` gets each piece, and must not raise. Raises RequestRefusedError where nobody can say what the client has.
    """

    def __init__(self, plan: Plan, job: Job, fault: Fault, deliver: Callable[[Frames], None]) -> None:
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._plan = plan
        self._number = pieces_sent(plan, job.resume)
        self._pieces = islice(pieces(plan), self._number, None)
        self._on_token = job.on_token
        self._fault = fault
        self._deliver = deliver
        self._given = 0

    def step(self) -> bool:
        """Give the next token, and what belongs to the first and the last of them. Returns whether more is to come."""
        if self.ended.done():
            return False  # nobody waits for it any more
        try:
            more = self._step()
        except Exception as error:  # noqa: BLE001 - within the engine's step: the others must get theirs
            self.ended.set_exception(error)
            return False
        if not more:
            self.ended.set_result(result(self._plan, b""))
        return more

    def _step(self) -> bool:
        if self._number:
            self._fault.after_tokens(self._given)
        last_token = self._plan.tokens + 1
        for data in self._pieces:
            self._number += 1
            is_token = 1 < self._number <= last_token
            if is_token:
                if not self._given:
                    self._fault.after_tokens(0)
                self._given += 1
                if self._given == 1:
                    self._on_token()
            if data:
                self._deliver(Frames(data, b"%d" % self._number if self._plan.continuable else None))
            # What is to break here breaks with the next step: what was given before is on its way then.
            if (is_token and self._number < last_token) or (self._given and self._fault.exit_after == self._given):
                return True
        return False

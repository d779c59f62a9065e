"""What a gateway does for requests that wait for a model which is not ready.

The loader says at every tick what they can expect (`tasks.records.outlooks`). Here it becomes an
answer: an error where waiting is in vain, another build where the client's name for
the model means that one as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import redis

from tasks.gateway.followed import Followed
from tasks.gateway.ready_models import ReadyModels
from tasks.messages import Failed
from tasks.records.nudge import nudge
from tasks.records.outlooks import OutlookStore
from tasks.requests.cold_start import refusal
from tasks.requests.request_store import RequestStore
from workers.placement.actions import Explanation

log = logging.getLogger(__name__)

# While no answer is awaited. With the first one that is, it is read at once.
_READ_AGAIN_S = 5.0


class ColdWatch:
    """Blocking; raises redis.RedisError. `turn` is called by one thread, about twice a second while answers are due."""

    def __init__(self, client: redis.Redis, store: RequestStore, ready: ReadyModels) -> None:
        self._client = client
        self._store = store
        self._ready = ready
        self._outlooks = OutlookStore(client)

    def turn(self, followed: Iterable[Followed]) -> None:
        """Look which models are ready, and after those of `followed` that wait for another one."""
        followed = list(followed)
        if not followed and time.monotonic() - self._ready.read_at < _READ_AGAIN_S:
            return
        self._ready.read()
        cold = [it for it in followed if it.waits and it.call.model not in self._ready]
        if not cold:
            return
        outlooks = self._outlooks.latest(sorted({it.call.model for it in cold}))
        left = [it for it in cold if not self._diverted(it, outlooks.get(it.call.model))]
        self._refuse(left, outlooks)
        if any(it.call.model not in outlooks for it in cold):
            # It has not seen the request yet, or beat is gone: it is to look as soon as it can.
            nudge(self._client)

    def _diverted(self, it: Followed, explanation: Explanation | None) -> bool:
        """Have the other build of its alias answer, where that is up, or comes instead."""
        other = it.terms.stand_in
        comes = explanation is not None and explanation.instead == other
        if not other or not (comes or other in self._ready) or not self._store.divert(it.call, other):
            return False
        extra = {"event": "request_diverted", "request": it.call.id, "model": it.call.model, "to": other}
        log.info("request diverted", extra=extra)
        it.terms, it.call = replace(it.terms, stand_in=it.call.model), replace(it.call, model=other)
        return True

    def _refuse(self, cold: Sequence[Followed], outlooks: Mapping[str, Explanation]) -> None:
        errors = {
            it.call.id: error for it in cold if (error := refusal(outlooks.get(it.call.model), it.terms)) is not None
        }
        if not errors:
            return
        # What has ended, or was taken at this very moment, has only not been read yet.
        untaken = {call.id for call in self._store.untaken([it.call for it in cold if it.call.id in errors])}
        for it in cold:
            if it.call.id in untaken:
                error = errors[it.call.id]
                it.inbox.fail(Failed(error.code, error.message, retry_after_s=error.retry_after_s))

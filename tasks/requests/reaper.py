"""What a dead worker held goes back to its queues, or ends.

Every gateway and every engine worker reaps, so that it happens while any of them lives.
Several may reap the same worker: each step is taken once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import redis

from tasks import keys
from tasks.messages import Call, Endpoint
from tasks.queues import Priority
from tasks.requests.requeue import Cause, Fate, requeue_args, requeue_keys
from tasks.requests.unacked import restore_unacked
from tasks.scripts import script

log = logging.getLogger(__name__)

_AT_A_STRETCH = 100


class Reaper:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._requeue = client.register_script(script("requeue"))

    def bury(self, replica_id: str) -> None:
        """Reap a replica whose process is known to have ended, before its silence is noticed."""
        if self._client.zscore(keys.REPLICAS, replica_id) is not None:
            self._client.zadd(keys.REPLICAS, {replica_id: 0})
        self.reap(replica_id)

    def reap(self, replica_id: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Give everything that a dead replica held to others, and forget it.

        `meanwhile` is called now and then, by one who has something else to do in time.
        """
        # One is enough; a second would do no harm, so the lock needs no owner.
        if not self._client.set(keys.reaping(replica_id), "", nx=True, ex=keys.REAPING_TTL_S):
            return
        fates = self._requeue_held(replica_id, meanwhile)
        if Fate.ALIVE not in fates.values() and None not in fates.values():
            dealt_with = {request_id for request_id, fate in fates.items() if fate is not Fate.NOT_HELD}
            restored = restore_unacked(self._client, replica_id, skip=dealt_with.__contains__)
            pipe = self._client.pipeline(transaction=False)
            pipe.zrem(keys.REPLICAS, replica_id)
            pipe.unlink(keys.held(replica_id), keys.replica(replica_id), keys.control(replica_id))
            pipe.execute()
            # Whoever left in good order held nothing.
            log.log(
                logging.WARNING if fates or restored else logging.INFO,
                "replica reaped",
                extra={
                    "event": "replica_reaped",
                    "replica": replica_id,
                    "requests": dict(Counter(fate.value for fate in fates.values() if fate)),
                    "messages": restored,
                },
            )
        self._client.unlink(keys.reaping(replica_id))

    def _requeue_held(self, replica_id: str, meanwhile: Callable[[], object]) -> dict[str, Fate | None]:
        """Decide about each request that the replica held; None where Redis refused, and it has to be tried again."""
        held = cast("set[bytes]", self._client.smembers(keys.held(replica_id)))
        ids = sorted(request_id.decode() for request_id in held)
        pipe = self._client.pipeline(transaction=False)
        for request_id in ids:
            pipe.hmget(keys.request(request_id), "model", "priority", "total_s", "attempt")
        fates: dict[str, Fate | None] = {}
        # What is put back last stands at the very front: the oldest, whose ids say nothing of it,
        # have the smallest attempts.
        found = sorted(zip(ids, pipe.execute(), strict=True), key=lambda pair: int(pair[1][3] or 0), reverse=True)
        for number, (request_id, fields) in enumerate(found, 1):
            if number % _AT_A_STRETCH == 0:
                meanwhile()
            try:
                fates[request_id] = self._requeue_one(request_id, fields, replica_id)
            except (ValueError, redis.ResponseError) as error:
                # One that cannot be read, since a newer release has written it, must not keep the others.
                fates[request_id] = Fate.NOT_HELD if isinstance(error, ValueError) else None
                extra = {"event": "requeue_failed", "request": request_id, "reason": type(error).__name__}
                log.error("request not put back", extra=extra)
        return fates

    def _requeue_one(self, request_id: str, fields: list[bytes | None], replica_id: str) -> Fate:
        model, priority, total_s, attempt = fields
        if model is None or priority is None or total_s is None or attempt is None:
            self._client.srem(keys.held(replica_id), request_id)
            return Fate.NOT_HELD
        call = Call(
            id=request_id,
            model=model.decode(),
            endpoint=Endpoint.CHAT,  # this and what follows are not asked for
            body=b"",
            stream=False,
            gateway="",
            priority=Priority(int(priority)),
            total_s=float(total_s),
        )
        reply: Any = self._requeue(
            keys=requeue_keys(call, replica_id), args=requeue_args(call, replica_id, int(attempt), Cause.DIED)
        )
        return Fate(reply.decode())

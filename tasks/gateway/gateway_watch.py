"""What a gateway does beside relaying: it says that it lives, buries dead workers, and looks after silent answers.

A stream that does not exist and one that is only quiet look the same to a reader. So an
answer that was silent for a while is looked up; one that Redis has forgotten is asked
for again if nothing of it was relayed, and ended with an error otherwise. While Redis
takes no writes, no worker can say anything to anybody: then this end tells.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any

import redis

from tasks import keys
from tasks.connections import refuses_writes
from tasks.gateway.cold_watch import ColdWatch
from tasks.gateway.followed import Followed
from tasks.messages import Call, Failed, parse_id
from tasks.requests.inbox import Inbox
from tasks.requests.pulse import LOOKS_APART_S, PULSE_S, RESTING_PULSE_S, Pace, Pulse
from tasks.requests.reaper import Reaper
from tasks.requests.request_store import RequestStore
from tasks.requests.sightings import Sightings
from tasks.requests.stream_reader import StreamReader

log = logging.getLogger(__name__)

REFRESH_S = 3.0
_SLOW_S = 1.0
_MOST_TO_CANCEL = 10_000
# Redis has taken no write for so long. It is noticed up to REFRESH_S late.
REFUSED_S = 4.0

FULL = Failed(
    "service_unavailable", "The server's memory or disk is full, so the answer cannot go on; repeat it later."
)


class Finding(StrEnum):
    """What is the matter with a silent answer."""

    WELL = "well"
    FORGOTTEN = "forgotten"  # Redis has lost it, or a part that was read already
    UNCLAIMED = "unclaimed"  # no worker has it: it waits, or its message got lost


def diagnose(last: tuple[int, int] | None, newest: tuple[int, int] | None, *, recorded: bool, claimed: bool) -> Finding:
    """Judge an answer of which `last` was read and `newest` is there; `recorded`: its request's record stands."""
    if last is not None and (newest is None or newest < last):
        return Finding.FORGOTTEN
    if newest is not None and newest != last:
        return Finding.WELL  # there is more to be read
    if not recorded:
        return Finding.FORGOTTEN
    return Finding.WELL if claimed else Finding.UNCLAIMED


class GatewayWatch:
    """One thread a gateway, from the first request on. Times are those of the monotonic clock."""

    def __init__(
        self,
        client: redis.Redis,
        gateway_id: str,
        reader: StreamReader,
        store: RequestStore,
        *,
        cold: ColdWatch,
        readmit: Callable[[Call], None],
    ) -> None:
        """`readmit` queues a call again, however many wait."""
        self._client = client
        self._gateway_id = gateway_id
        self._reader = reader
        self._store = store
        self._cold = cold
        self._readmit = readmit
        self._pulse = Pulse(client)
        self._reaper = Reaper(client)
        now = time.monotonic()
        self._replicas = Sightings(apart_s=LOOKS_APART_S, now=now)
        self._pace = Pace(now)
        self._suspects = False
        self._resting = False
        self._followed: dict[Inbox, Followed] = {}
        self._read_out: list[str] = []
        self._to_cancel: deque[Call] = deque(maxlen=_MOST_TO_CANCEL)
        self._refused_since: float | None = None
        self._refreshed_at = float("-inf")
        self._losses = 0
        self._run_id = ""
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-watch", daemon=True)

    def start(self) -> None:
        """Return when Redis knows that this gateway lives, or cannot be told."""
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(10)

    def add(self, it: Followed) -> None:
        """Look after an answer."""
        self._followed[it.inbox] = it
        if self._resting:
            self._wake.set()

    def remove(self, inbox: Inbox, *, read_out: bool) -> None:
        """Look after it no longer; remove its stream as well when it was read to its end and nobody else may come."""
        self._followed.pop(inbox, None)
        if read_out:
            self._read_out.append(keys.stream(inbox.request_id))

    def cancel(self, call: Call) -> None:
        """Cancel a call as soon as Redis takes it; until then its worker may run it for nobody."""
        self._to_cancel.append(replace(call, body=b""))
        if self._resting:
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(RESTING_PULSE_S if self._resting else PULSE_S)
            self._wake.clear()
            self._turn()

    def _turn(self) -> None:
        began = time.monotonic()
        if self._followed or self._to_cancel or self._suspects:
            self._pace.busy(began)
        self._resting = self._pace.resting(began)
        try:
            # While no answer is awaited, none can be forgotten.
            look = self._pulse.look(run_id=not self._resting)
            now = time.monotonic()
            restarted = bool(look.run_id) and self._run_id not in ("", look.run_id)
            self._run_id = look.run_id or self._run_id
            self._suspects = bool(look.dead)
            self._resting = self._resting and not self._suspects
            if now - began > _SLOW_S:
                self._replicas.disturbed(now)
            for replica_id in self._replicas.certain(look.dead, now):
                self._reaper.reap(replica_id)
            if now - self._refreshed_at > REFRESH_S or self._losses != self._reader.losses:
                self._refresh()
                self._refreshed_at = now
                self._refused_since = None
            self._look_after(now, everything=restarted)
            self._cold.turn(list(self._followed.values()))
            self._cancel_late()
        except (redis.RedisError, OSError) as error:
            log.debug("no watch: %r", error)
            self._replicas.disturbed(time.monotonic())
            if refuses_writes(error):
                self._refused(time.monotonic())
        except Exception:
            # The thread's boundary: without it this gateway would soon be taken for dead.
            log.exception("watch broke", extra={"event": "watch_broke"})

    def _refresh(self) -> None:
        """Say that this gateway lives, and remove streams that were read to their end."""
        gone, self._read_out = self._read_out, []
        pipe = self._client.pipeline(transaction=False)
        pipe.set(keys.gateway(self._gateway_id), "", ex=keys.GATEWAY_TTL_S)
        pipe.expire(keys.wake(self._gateway_id), keys.GATEWAY_TTL_S)
        if gone:
            pipe.unlink(*gone)
        pipe.execute()

    def _cancel_late(self) -> None:
        while self._to_cancel:
            self._store.cancel(self._to_cancel[0])
            self._to_cancel.popleft()

    def _refused(self, now: float) -> None:
        """End what had begun and can say nothing more. What still waits for a worker may wait on."""
        if self._refused_since is None:
            self._refused_since = now
            log.warning("redis refuses writes", extra={"event": "redis_refuses"})
        for it in list(self._followed.values()):
            began = it.inbox.last is not None and not it.inbox.ended
            if began and now - max(it.inbox.heard_at, self._refused_since) > REFUSED_S:
                it.inbox.fail(FULL)

    def _look_after(self, now: float, *, everything: bool) -> None:
        everything = everything or self._losses != self._reader.losses
        self._losses = self._reader.losses
        open_ = [it for it in list(self._followed.values()) if not it.inbox.ended]
        due = [it for it in open_ if everything or it.due(now)]
        if not due:
            return
        pipe = self._client.pipeline(transaction=False)
        for it in due:
            pipe.hmget(keys.request(it.inbox.request_id), "model", "replica")
            pipe.xrevrange(keys.stream(it.inbox.request_id), count=1)
        lasts = [it.inbox.last for it in due]
        replies: list[Any] = pipe.execute()
        for it, last, record, newest in zip(due, lasts, replies[::2], replies[1::2], strict=True):
            it.looked_at = now
            if it.inbox.last != last or it.inbox not in self._followed:
                continue  # it spoke meanwhile, or its client has left
            place = parse_id(newest[0][0].decode()) if newest else None
            finding = diagnose(last, place, recorded=record[0] is not None, claimed=bool(record[1]))
            it.unclaimed_looks = it.unclaimed_looks + 1 if finding is Finding.UNCLAIMED else 0
            if finding is Finding.FORGOTTEN:
                self._recover(it)
            elif it.unclaimed_looks > 1 and self._store.mend(it.call):
                log.warning("message lost", extra={"event": "message_mended", "request": it.call.id})

    def _recover(self, it: Followed) -> None:
        again = it.again and not it.inbox.relayed
        extra = {"event": "request_forgotten", "request": it.call.id, "again": again}
        log.warning("request forgotten", extra=extra)
        if not again:
            it.inbox.lose()
            return
        self._reader.again(it.inbox)
        self._readmit(it.call)
        if it.inbox not in self._followed:  # its client has left at this very moment
            self._reader.forget(it.inbox)
            self.cancel(it.call)

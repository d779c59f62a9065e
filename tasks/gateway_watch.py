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
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis

from tasks import keys
from tasks.connections import refuses_writes
from tasks.inbox import Inbox
from tasks.messages import Call, Failed, parse_id
from tasks.pulse import LOOKS_APART_S, PULSE_S, Pulse
from tasks.reaper import Reaper
from tasks.request_store import RequestStore
from tasks.sightings import Sightings
from tasks.stream_reader import StreamReader

log = logging.getLogger(__name__)

REFRESH_S = 3.0
# From the latest record to the first look, and from one look to the next.
SILENT_S = 3.0
LOOK_AGAIN_S = 5.0
_SLOW_S = 1.0
# Redis has taken no write for so long. It is noticed up to REFRESH_S late.
REFUSED_S = 4.0

UNLOADABLE = Failed("model_load_failed", "The model could not be loaded; its operator finds the reason in the log.")
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


@dataclass(eq=False, slots=True)
class Followed:
    """An answer that somebody waits for here. `call` None: it cannot be asked for again from here."""

    inbox: Inbox
    call: Call | None
    looked_at: float = float("-inf")
    unclaimed_looks: int = 0


class GatewayWatch:
    """One thread a gateway, from the first request on. Times are those of the monotonic clock."""

    def __init__(
        self,
        client: redis.Redis,
        gateway_id: str,
        reader: StreamReader,
        store: RequestStore,
        readmit: Callable[[Call], None],
    ) -> None:
        """`readmit` queues a call again, however many wait."""
        self._client = client
        self._gateway_id = gateway_id
        self._reader = reader
        self._store = store
        self._readmit = readmit
        self._pulse = Pulse(client)
        self._reaper = Reaper(client)
        self._replicas = Sightings(apart_s=LOOKS_APART_S, now=time.monotonic())
        self._followed: dict[Inbox, Followed] = {}
        self._read_out: list[str] = []
        self._to_cancel: list[Call] = []
        self._refused_since: float | None = None
        self._refreshed_at = float("-inf")
        self._losses = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-watch", daemon=True)

    def start(self) -> None:
        """Return when Redis knows that this gateway lives, or cannot be told."""
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)

    def add(self, inbox: Inbox, call: Call | None) -> None:
        self._followed[inbox] = Followed(inbox, call)

    def remove(self, inbox: Inbox, *, read_out: bool) -> None:
        """Look after it no longer; remove its stream as well when it was read to its end and nobody else may come."""
        self._followed.pop(inbox, None)
        if read_out:
            self._read_out.append(keys.stream(inbox.request_id))

    def cancel(self, call: Call) -> None:
        """Cancel a call as soon as Redis takes it; until then its worker may run it for nobody."""
        self._to_cancel.append(call)

    def _run(self) -> None:
        while not self._stopped.wait(PULSE_S):
            self._turn()

    def _turn(self) -> None:
        began = time.monotonic()
        try:
            dead = self._pulse.look()
            now = time.monotonic()
            if now - began > _SLOW_S:
                self._replicas.disturbed(now)
            for replica_id in self._replicas.certain(dead, now):
                self._reaper.reap(replica_id)
            if now - self._refreshed_at > REFRESH_S or self._losses != self._reader.losses:
                self._refresh()
                self._refreshed_at = now
                self._refused_since = None
            self._look_after(now)
            self._cancel_late()
        except (redis.RedisError, OSError) as error:
            log.debug("no watch: %r", error)
            self._replicas.disturbed(time.monotonic())
            if refuses_writes(error):
                self._refused(time.monotonic())

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
            self._to_cancel.pop(0)

    def _refused(self, now: float) -> None:
        """End what had begun and can say nothing more. What still waits for a worker may wait on."""
        if self._refused_since is None:
            self._refused_since = now
            log.warning("redis refuses writes", extra={"event": "redis_refuses"})
        for it in list(self._followed.values()):
            began = it.inbox.last is not None and not it.inbox.ended
            if began and now - max(it.inbox.heard_at, self._refused_since) > REFUSED_S:
                it.inbox.fail(FULL)

    def _look_after(self, now: float) -> None:
        lost_connection, self._losses = self._losses != self._reader.losses, self._reader.losses
        due = [
            it
            for it in list(self._followed.values())
            if not it.inbox.ended
            and (lost_connection or (now - it.inbox.heard_at > SILENT_S and now - it.looked_at > LOOK_AGAIN_S))
        ]
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
            if it.inbox.last != last:
                continue  # it spoke meanwhile
            place = parse_id(newest[0][0].decode()) if newest else None
            finding = diagnose(last, place, recorded=record[0] is not None, claimed=bool(record[1]))
            self._treat(it, finding)

    def _treat(self, it: Followed, finding: Finding) -> None:
        it.unclaimed_looks = it.unclaimed_looks + 1 if finding is Finding.UNCLAIMED else 0
        request_id = it.inbox.request_id
        if finding is Finding.FORGOTTEN:
            again = it.call is not None and not it.inbox.relayed
            log.warning(
                "request forgotten", extra={"event": "request_forgotten", "request": request_id, "again": again}
            )
            if again and it.call is not None:
                self._reader.again(it.inbox)
                self._readmit(it.call)
            else:
                it.inbox.lose()
        elif finding is Finding.UNCLAIMED and it.call is not None and self._store.unloadable(it.call.model):
            it.inbox.fail(UNLOADABLE)
        elif it.unclaimed_looks > 1 and it.call is not None and self._store.mend(it.call):
            log.warning("message lost", extra={"event": "message_mended", "request": request_id})

"""A worker's sign of life: a thread that pulses twice a second while there is work, and writes what the worker is.

It beats while the engine loads, which may block the loop for long, and from then on only
while the loop runs: a worker whose loop hangs must look dead. It also looks round for
other workers that have died, and gives away what they held.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from typing import Protocol

import redis

from tasks.records.replicas import ReplicaFacts, ReplicaRecord
from tasks.requests.pulse import ALIVE_S, LOOKS_APART_S, PULSE_S, Pace, Pulse
from tasks.requests.reaper import Reaper
from tasks.requests.sightings import Sightings

log = logging.getLogger(__name__)

FACTS_S = 2.0
# Of a worker that rests; two may be lost before its record lapses.
RESTING_FACTS_S = 8.0
# Redis could not be told that we live for so long: what we held is certainly somebody else's.
LEASE_S = 20.0
_GATEWAY_LOOKS_APART_S = 4.0
_SLOW_S = 1.0
# A loop that has not turned for so long will not turn again: what it holds is long with
# others, and its seat is worth more than what it may still come to.
HUNG_S = 10.0


class Beating(Protocol):
    """The worker behind the heartbeat. Everything is called on the beating thread."""

    def alive_s(self) -> float:
        """Return for how long the worker may be thought alive from now on; 0 or less: not at all."""
        ...

    def busy(self) -> bool:
        """Say whether anybody would notice at once if the worker were dead: it loads, works, or is about to end."""
        ...

    def replica_facts(self) -> ReplicaFacts: ...

    def waiting_gateways(self) -> frozenset[str]:
        """Return the gateways that wait for something the worker holds."""
        ...

    def on_dead_gateways(self, dead: frozenset[str]) -> None: ...

    def on_lapse(self) -> None:
        """Others may have thought us dead, or Redis has forgotten us; we are on record again now."""
        ...

    def on_hang(self) -> None:
        """The worker has not been alive for `HUNG_S`."""
        ...

    def on_lease_lost(self) -> None:
        """Redis has been out of reach for `LEASE_S`."""
        ...


class Heartbeat:
    """Beats from `start` to `stop`, and at once after `soon`."""

    def __init__(self, client: redis.Redis, replica_id: str, worker: Beating) -> None:
        self._replica_id = replica_id
        self._worker = worker
        self._record = ReplicaRecord(client)
        self._pulse = Pulse(client)
        self._reaper = Reaper(client)
        now = time.monotonic()
        self._replicas = Sightings(apart_s=LOOKS_APART_S, now=now)
        self._gateways = Sightings(apart_s=_GATEWAY_LOOKS_APART_S, now=now)
        self._pace = Pace(now)
        self._suspects = False
        self._beaten_at: float | None = None
        self._lease_lost = False
        self._run_id = ""
        self._ahead_s = 0.0
        self._facts_at = float("-inf")
        self._soon = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def soon(self) -> None:
        self._soon = True
        self._wake.set()

    @property
    def resting(self) -> bool:
        """Whether it pulses seldom, as there is no work."""
        return self._pace.resting(time.monotonic())

    def stop(self) -> None:
        """End, and take the replica out of Redis."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        try:
            self._record.remove(self._replica_id)
        except (redis.RedisError, OSError) as error:
            log.warning("replica not removed", extra={"event": "redis_lost", "reason": type(error).__name__})

    def _run(self) -> None:
        while not self._stopping:
            self._turn()
            self._wake.wait(PULSE_S)
            self._wake.clear()

    def _turn(self) -> None:
        began = time.monotonic()
        if soon := self._soon:
            self._soon, self._facts_at = False, float("-inf")
        alive_s = self._worker.alive_s()
        if alive_s <= 0:
            if alive_s < -HUNG_S:
                self._worker.on_hang()
            return
        if soon or self._suspects or self._worker.busy():
            self._pace.busy(began)
        if not self._pace.due(began):
            return
        try:
            self._beat(alive_s, began)
            self._pace.pulsed(began)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: without it the worker only seems to live
            self._report(error)
            self._disturbed()
            lost = self._beaten_at is not None and time.monotonic() - self._beaten_at > LEASE_S
            if lost and not self._lease_lost:
                self._lease_lost = True
                self._worker.on_lease_lost()

    def _beat(self, alive_s: float, began: float) -> None:
        resting = self._pace.resting(began)
        # Nothing that it holds could have been forgotten: it holds nothing.
        look = self._pulse.beat(self._replica_id, alive_s + self._pace.alive_s(began) - ALIVE_S, run_id=not resting)
        now = time.monotonic()
        restarted = bool(look.run_id) and self._run_id not in ("", look.run_id)
        self._run_id = look.run_id or self._run_id
        if restarted or (self._beaten_at is not None and not look.stood):
            log.info("thought dead", extra={"event": "replica_lapsed", "replica": self._replica_id})
            self._facts_at = float("-inf")
            self._worker.on_lapse()
        self._beaten_at, self._lease_lost = now, False
        if now - began > _SLOW_S:
            self._disturbed()
        else:
            self._ahead_s = time.time() - look.at
        self._suspects = bool(look.dead)
        for replica_id in self._replicas.certain(look.dead - {self._replica_id}, now):
            self._reaper.reap(replica_id, meanwhile=self._pulse_on)
        if now - self._facts_at >= (RESTING_FACTS_S if resting else FACTS_S):
            self._facts_at = now
            facts = dataclasses.replace(self._worker.replica_facts(), clock_ahead_s=round(self._ahead_s, 2))
            missing = self._record.beat(facts, self._worker.waiting_gateways())
            if dead := self._gateways.certain(missing, time.monotonic()):
                self._worker.on_dead_gateways(dead)

    def _pulse_on(self) -> None:
        """Live on while a long list is worked off."""
        if (alive_s := self._worker.alive_s()) > 0:
            self._pulse.beat(self._replica_id, alive_s)

    def _report(self, error: Exception) -> None:
        if isinstance(error, (redis.RedisError, OSError)):
            log.debug("no heartbeat: %r", error)
        else:
            log.error("heartbeat broke", exc_info=error, extra={"event": "heartbeat_broke"})

    def _disturbed(self) -> None:
        now = time.monotonic()
        self._replicas.disturbed(now)
        self._gateways.disturbed(now)

"""A worker's sign of life: a thread that writes what the replica is and does, every two seconds.

It beats while the engine loads, which may block the loop for long, and from then on only
while the loop runs: a worker whose loop hangs must look dead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from tasks.replicas import ReplicaFacts, ReplicaRecord

log = logging.getLogger(__name__)

BEAT_S = 2.0


class Heartbeat:
    """Beats from `start` to `stop`, and at once after `soon`."""

    def __init__(
        self,
        record: ReplicaRecord,
        *,
        facts: Callable[[], ReplicaFacts | None],
        gateways: Callable[[], frozenset[str]],
        on_dead_gateways: Callable[[frozenset[str]], None],
    ) -> None:
        """`facts` returns None while the worker should not look alive. All three run on the beating thread."""
        self._record = record
        self._facts = facts
        self._gateways = gateways
        self._on_dead_gateways = on_dead_gateways
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def soon(self) -> None:
        self._wake.set()

    def stop(self, replica_id: str) -> None:
        """End, and take the replica out of Redis."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        try:
            self._record.remove(replica_id)
        except (redis.RedisError, OSError) as error:
            log.warning("replica not removed", extra={"event": "redis_lost", "reason": type(error).__name__})

    def _run(self) -> None:
        while not self._stopping:
            self._beat()
            self._wake.wait(BEAT_S)
            self._wake.clear()

    def _beat(self) -> None:
        facts = self._facts()
        if facts is None:
            return
        try:
            dead = self._record.beat(facts, self._gateways())
        except (redis.RedisError, OSError) as error:
            log.debug("no heartbeat: %r", error)
        else:
            if dead:
                self._on_dead_gateways(dead)

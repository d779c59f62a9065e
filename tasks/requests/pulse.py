"""Who is alive, as Redis knows it: one sorted set of replicas by the time each lives until."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from tasks import keys
from tasks.scripts import script

PULSE_S = 0.5
# A worker that was silent for so long is taken for dead, after a second look.
ALIVE_S = 1.8
# Between the two looks: less than a pause, so that an observer's next look is the second. By then a worker
# that lives was late for four pulses in a row.
LOOKS_APART_S = 0.4


@dataclass(frozen=True, slots=True)
class Look:
    """What one pulse has found out."""

    stood: bool
    """Whether we were thought alive until now."""
    run_id: str
    """Of the server: another one means that Redis was restarted, and may have forgotten something."""
    at: float
    """When, by Redis' clock."""
    dead: frozenset[str]
    """Replicas that have been silent for too long."""


class Pulse:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._pulse = client.register_script(script("pulse"))

    def beat(self, replica_id: str, alive_s: float) -> Look:
        """Say that `replica_id` lives for `alive_s` from now on, and look round."""
        reply: list[Any] = self._pulse(keys=[keys.REPLICAS], args=[replica_id, int(alive_s * 1000)])
        stood, run_id, now_ms, *dead = reply
        return Look(stood == 1, run_id.decode(), int(now_ms) / 1000, frozenset(name.decode() for name in dead))

    def look(self) -> Look:
        """Only look round."""
        return self.beat("", 0)

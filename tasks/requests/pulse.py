"""Who is alive, as Redis knows it: one sorted set of replicas by the time each lives until.

Whoever has work pulses, and looks round, twice a second. Whoever has had none for a while
does so a sixth as often, and is believed for longer: nobody waits for anything it holds.
"""

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
# The same of who rests: it has had nothing to do for so long.
RESTS_AFTER_S = 5.0
RESTING_PULSE_S = 3.0
RESTING_ALIVE_S = 7.0


class Pace:
    """How often one process pulses or looks round. Pure: `now` is a time of the monotonic clock."""

    def __init__(self, now: float) -> None:
        self._busy_at = now
        self._next_at = now

    def busy(self, now: float) -> None:
        """It has work, or has seen something that it is to look at again soon."""
        self._busy_at = now

    def resting(self, now: float) -> bool:
        return now - self._busy_at > RESTS_AFTER_S

    def alive_s(self, now: float) -> float:
        """Return for how long one who pulses now is to be believed."""
        return RESTING_ALIVE_S if self.resting(now) else ALIVE_S

    def pulsed(self, now: float) -> None:
        # The first pulse at rest comes as soon as the one before it: that is not believed for longer.
        self._next_at = now + (RESTING_PULSE_S - PULSE_S / 2 if self.resting(now) else 0.0)

    def due(self, now: float) -> bool:
        """Say whether it is time to, for one who asks every `PULSE_S`."""
        return now >= self._next_at or not self.resting(now)


@dataclass(frozen=True, slots=True)
class Look:
    """What one pulse has found out."""

    stood: bool
    """Whether we were thought alive until now."""
    run_id: str
    """Of the server: another one means that Redis was restarted, and may have forgotten something. "": not asked."""
    at: float
    """When, by Redis' clock."""
    dead: frozenset[str]
    """Replicas that have been silent for too long."""


class Pulse:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._pulse = client.register_script(script("pulse"))

    def beat(self, replica_id: str, alive_s: float, *, run_id: bool = True) -> Look:
        """Say that `replica_id` lives for `alive_s` from now on, and look round.

        Without `run_id`, which costs Redis as much as all the rest, a restart is not noticed.
        """
        args: list[Any] = [replica_id, int(alive_s * 1000), int(run_id)]
        reply: list[Any] = self._pulse(keys=[keys.REPLICAS], args=args)
        stood, server, now_ms, *dead = reply
        return Look(stood == 1, server.decode(), int(now_ms) / 1000, frozenset(name.decode() for name in dead))

    def look(self, *, run_id: bool = True) -> Look:
        """Only look round."""
        return self.beat("", 0, run_id=run_id)

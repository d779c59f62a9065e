"""What a beat says of a worker beyond what the worker says itself."""

from __future__ import annotations

import pytest
import redis

from tasks import keys
from tasks.records.nodes import redis_time
from tasks.records.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from tasks.requests.pulse import Pulse
from tasks.serving.heartbeat import Heartbeat
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


class Worker:
    """Satisfies `tasks.serving.heartbeat.Beating`."""

    def alive_s(self) -> float:
        return 60.0

    def busy(self) -> bool:
        return False

    def replica_facts(self) -> ReplicaFacts:
        return ReplicaFacts(
            id="r",
            model="m",
            node="n",
            device="cpu",
            state=ReplicaState.READY,
            pid=1,
            in_flight=0,
            seats=1,
            kv_usage=0.0,
            memory_mib=1,
            started_at=1.0,
            last_used_at=None,
            heartbeat_at=1.0,
            clock_ahead_s=1e9,
        )

    def waiting_gateways(self) -> frozenset[str]:
        return frozenset()

    def on_dead_gateways(self, dead: frozenset[str]) -> None: ...

    def on_lapse(self) -> None: ...

    def on_hang(self) -> None: ...

    def on_lease_lost(self) -> None: ...


def test_a_pulse_brings_the_time_of_redis(client: redis.Redis) -> None:
    before = redis_time(client)
    at = Pulse(client).beat("r", 60).at
    # In whole milliseconds.
    assert before - 0.001 <= at <= redis_time(client)


def test_a_beat_says_how_far_the_clock_here_is_ahead(client: redis.Redis) -> None:
    heartbeat = Heartbeat(client, "r", Worker())
    heartbeat.start()
    try:
        wait_until(lambda: client.exists(keys.replica("r")), "the replica has spoken")
        (facts,) = ReplicaStore(client).of(["r"])
        assert abs(facts.clock_ahead_s) < 60, "it is the same clock"
    finally:
        heartbeat.stop()

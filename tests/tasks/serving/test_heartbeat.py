"""What a beat says of a worker beyond what the worker says itself."""

from __future__ import annotations

import time

import pytest
import redis

from tasks import keys
from tasks.records.nodes import redis_time
from tasks.records.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from tasks.requests.pulse import ALIVE_S, RESTS_AFTER_S, Pulse
from tasks.serving.heartbeat import Heartbeat
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


class Worker:
    """Satisfies `tasks.serving.heartbeat.Beating`."""

    def alive_s(self) -> float:
        return ALIVE_S

    works = False

    def busy(self) -> bool:
        return self.works

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


def test_a_worker_that_takes_work_is_believed_for_no_longer_than_any_other(client: redis.Redis) -> None:
    worker = Worker()
    heartbeat = Heartbeat(client, "r", worker)
    heartbeat._pace.busy(time.monotonic() - 2 * RESTS_AFTER_S)
    heartbeat._turn()
    assert heartbeat.resting
    assert _lives_s(client) > ALIVE_S
    told = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    heartbeat._turn()
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == told, "it rests"
    worker.works = True
    heartbeat._turn()
    assert not heartbeat.resting
    assert 0 < _lives_s(client) <= ALIVE_S


def _lives_s(client: redis.Redis) -> float:
    until_ms = client.zscore(keys.REPLICAS, "r")
    assert until_ms is not None
    return float(until_ms) / 1000 - redis_time(client)


def test_a_beat_says_how_far_the_clock_here_is_ahead(client: redis.Redis) -> None:
    heartbeat = Heartbeat(client, "r", Worker())
    heartbeat.start()
    try:
        wait_until(lambda: client.exists(keys.replica("r")), "the replica has spoken")
        (facts,) = ReplicaStore(client).of(["r"])
        assert abs(facts.clock_ahead_s) < 60, "it is the same clock"
    finally:
        heartbeat.stop()

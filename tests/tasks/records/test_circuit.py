"""A replica that keeps failing steps aside, comes back carefully, and is never missed."""

from __future__ import annotations

import pytest
import redis

from tasks import keys
from tasks.records.circuit import FAILURES, LONGEST_BACK_OFF_S, Circuit, Phase, Rotation
from tasks.requests.pulse import Pulse
from tasks.scripts import script

SEATS = 8


def tripped(now: float = 0.0) -> Circuit:
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.note(ok=False, began=now, now=now)
    return circuit


def opened(now: float = 0.0) -> Circuit:
    circuit = tripped(now)
    circuit.told(Rotation.OUT, now)
    return circuit


def test_failures_must_follow_each_other() -> None:
    circuit = Circuit()
    for turn in range(FAILURES * 3):
        circuit.note(ok=turn % FAILURES == 0, began=turn, now=turn)
        assert circuit.phase(turn) is Phase.CLOSED
    assert not circuit.due(100)


def test_a_tripped_replica_serves_on_until_redis_lets_it_go() -> None:
    circuit = tripped()
    assert (circuit.phase(0), circuit.limit(SEATS, 0)) == (Phase.TRIPPED, SEATS)
    assert circuit.due(0)
    assert circuit.wish is Rotation.OUT
    circuit.told(Rotation.OUT, 0)
    assert (circuit.phase(0), circuit.limit(SEATS, 0)) == (Phase.OPEN, 0)


def test_after_the_back_off_one_request_decides() -> None:
    circuit = opened()
    assert (circuit.phase(1.0), circuit.limit(SEATS, 1.0)) == (Phase.PROBE, 1)
    circuit.note(ok=True, began=1.0, now=1.5)
    assert (circuit.phase(1.5), circuit.limit(SEATS, 1.5)) == (Phase.CLOSED, SEATS)
    assert circuit.wish is Rotation.IN
    assert circuit.due(1.5)
    circuit.told(Rotation.IN, 1.5)
    assert not circuit.due(99)


def test_each_failed_probe_doubles_the_back_off_up_to_a_minute() -> None:
    circuit, now, waits = opened(), 0.0, []
    for _ in range(9):
        waits.append(circuit.back_off_s)
        now += circuit.back_off_s
        circuit.note(ok=False, began=now, now=now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert LONGEST_BACK_OFF_S == 60


def test_a_success_makes_the_next_back_off_short_again() -> None:
    circuit = opened()
    circuit.note(ok=False, began=1, now=1)
    circuit.note(ok=True, began=3, now=3)
    for _ in range(FAILURES):
        circuit.note(ok=False, began=4, now=4)
    circuit.told(Rotation.OUT, 4)
    assert circuit.back_off_s == 1


@pytest.mark.parametrize("ok", [True, False])
def test_what_began_before_says_nothing_of_the_time_since(ok: bool) -> None:
    circuit = opened(10)
    circuit.note(ok=ok, began=9, now=10.5)
    assert circuit.phase(10.5) is Phase.OPEN
    circuit.note(ok=ok, began=9, now=11.5)
    assert circuit.phase(11.5) is Phase.PROBE


def test_the_last_one_serves_on_and_asks_again_only_when_it_fails_again() -> None:
    circuit = tripped()
    circuit.told(Rotation.LAST, 0)
    assert (circuit.phase(0), circuit.limit(SEATS, 0), circuit.rotation) == (Phase.TRIPPED, SEATS, Rotation.LAST)
    assert not circuit.due(50)
    circuit.note(ok=False, began=50, now=50)
    assert circuit.due(50)
    circuit.told(Rotation.OUT, 50)
    assert circuit.phase(50) is Phase.OPEN


def test_one_that_is_out_makes_sure_that_somebody_else_is_in() -> None:
    circuit = opened()
    assert not circuit.due(0.9)
    assert circuit.due(1.0)
    circuit.told(Rotation.LAST, 1.0)
    assert circuit.limit(SEATS, 1.0) == SEATS


def test_a_success_of_the_last_one_ends_it() -> None:
    circuit = tripped()
    circuit.told(Rotation.LAST, 0)
    circuit.note(ok=True, began=1, now=2)
    assert (circuit.phase(2), circuit.wish, circuit.due(2)) == (Phase.CLOSED, Rotation.IN, True)


def lives(client: redis.Redis, replica: str, model: str = "m", state: str = "ready") -> None:
    Pulse(client).beat(replica, 60)
    client.hset(keys.replica(replica), mapping={"model": model, "state": state})


def ask(client: redis.Redis, replica: str, wish: str) -> str:
    rotate = client.register_script(script("rotate"))
    reply: bytes = rotate(
        keys=[keys.REPLICAS, keys.replica(replica)],
        args=[replica, "m", wish, keys.replica(""), keys.REPLICA_TTL_S],
    )
    return reply.decode()


@pytest.mark.integration
def test_of_two_that_fail_only_one_leaves(client: redis.Redis) -> None:
    lives(client, "a")
    lives(client, "b")
    assert ask(client, "a", "out") == "out"
    assert ask(client, "b", "out") == "last"
    # The one that has left may stay away while the other serves, failing or not.
    assert ask(client, "a", "out") == "out"
    client.zadd(keys.REPLICAS, {"b": 0})
    assert ask(client, "a", "out") == "last"
    assert ask(client, "a", "in") == "in"
    assert client.ttl(keys.replica("a")) > 0


@pytest.mark.integration
def test_only_a_live_and_ready_replica_of_the_same_model_counts(client: redis.Redis) -> None:
    lives(client, "a")
    lives(client, "loading", state="starting")
    lives(client, "other", model="other")
    lives(client, "dead")
    client.zadd(keys.REPLICAS, {"dead": 0})
    assert ask(client, "a", "out") == "last"

"""When the loader need not look: never while anything is asked for, moves, or is to be noticed in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from tasks import keys
from tasks.loader.calm import CALM_S, calm_s, signs
from tasks.records.calm import CalmStore
from tasks.records.nodes import DEAD_AFTER_S, HEARTBEAT_S, Node, NodeFacts
from workers.placement.actions import Drain, Explanation, Outlook, Plan
from workers.placement.facts import Demand, Facts, Model, Replica, Reservation
from workers.replicas import ReplicaState

S = ReplicaState
NOW = 1000.0
REPLICA = Replica(id="r", model="m", node="n", devices=("cpu",), mib=1, state=S.READY, started_at=0.0)
RESERVATION = Reservation(replica="r", model="m", node="n", devices=("cpu",), mib=1, slot=0, expires_at=NOW)
NOTHING = Plan((), {})


def facts(*replicas: Replica, demand: Demand | None = None, reserved: bool = False) -> Facts:
    return Facts(
        models=[],
        demands=[demand or Demand(model="m")],
        replicas=replicas,
        devices=[],
        nodes=[],
        reservations=[RESERVATION] if reserved else [],
        failures=[],
    )


def node(age_s: float) -> Node:
    return Node(NodeFacts(id="n"), age_s)


@pytest.mark.parametrize("there", [(), (REPLICA,), (replace(REPLICA, state=S.SLEEPING),)])
def test_what_stands_still_need_not_be_looked_at(there: tuple[Replica, ...]) -> None:
    assert calm_s(facts(*there, reserved=bool(there)), NOTHING, [node(0.0)], NOW) == CALM_S


@pytest.mark.parametrize(
    "seen",
    [
        facts(replace(REPLICA, state=S.STARTING)),
        facts(replace(REPLICA, state=S.DRAINING)),
        facts(replace(REPLICA, in_flight=1)),
        facts(replace(REPLICA, told=S.SLEEPING)),
        facts(reserved=True),
        facts(demand=Demand(model="m", interactive=1)),
        facts(demand=Demand(model="m", bulk=1)),
        facts(demand=Demand(model="m", load=True)),
    ],
)
def test_what_moves_or_is_asked_for_is(seen: Facts) -> None:
    assert calm_s(seen, NOTHING, [node(0.0)], NOW) == 0


def test_whoever_is_refused_is_looked_at_again() -> None:
    refused = Plan((), {"m": Explanation(outlook=Outlook.NO_CAPACITY, text="")})
    assert calm_s(facts(), refused, [node(0.0)], NOW) == 0
    assert calm_s(facts(), Plan((Drain("r", ""),), {}), [node(0.0)], NOW) == 0
    serving = Plan((), {"m": Explanation(outlook=Outlook.SERVING, text="")})
    assert calm_s(facts(REPLICA), serving, [node(0.0)], NOW) == CALM_S


def test_what_is_due_ends_it() -> None:
    assert calm_s(facts(), Plan((), {}, again_at=NOW + 3), [], NOW) == 3


def test_who_is_used_no_more_leaves_in_time() -> None:
    model = Model(id="m", needs=(), seats=1, idle_ttl_s=60.0)
    used = replace(REPLICA, last_used_at=NOW - 55)
    seen = replace(facts(used), models=[model])
    assert calm_s(seen, NOTHING, [], NOW) == 5
    stays = replace(seen, replicas=[replace(used, last_used_at=NOW - 70)])
    assert calm_s(stays, NOTHING, [], NOW) == CALM_S, "it is kept whatever becomes of it"


def test_a_machine_is_taken_for_dead_in_time() -> None:
    for age_s in (0.0, HEARTBEAT_S, DEAD_AFTER_S - 1):
        assert age_s + calm_s(facts(), NOTHING, [node(age_s)], NOW) <= DEAD_AFTER_S
    assert calm_s(facts(), NOTHING, [node(DEAD_AFTER_S + 1)], NOW) == CALM_S, "it is known to be dead"


@pytest.mark.integration
def test_whatever_is_asked_for_ends_it(client: redis.Redis) -> None:
    calm = CalmStore(client)
    assert not calm.holds()
    calm.say(signs(["m"]), CALM_S)
    assert calm.holds()
    assert 0 < client.pttl(keys.LOADER_CALM) <= CALM_S * 1000
    for sign in ("model.m", "model.m\x06\x169"):
        client.lpush(sign, "x")
        assert not calm.holds()
        client.delete(sign)
    client.set(keys.asked("m"), "")
    assert not calm.holds()
    client.delete(keys.asked("m"))
    assert calm.holds()
    calm.say([], 0)
    assert not calm.holds()

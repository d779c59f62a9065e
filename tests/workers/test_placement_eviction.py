"""Who leaves for whom. One card of 48 GB, and models that need 40 unless said otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.placement_facts import (
    NOW,
    Drain,
    Limits,
    actions,
    asked,
    card,
    explained,
    model,
    planned,
    replica,
    sent_away,
    starting,
    starts,
)
from workers.devices import DeviceKind
from workers.placement.actions import Outlook, Sleep
from workers.placement.facts import Need, Node
from workers.replicas import ReplicaState

ONE = [card("cuda:0")]
SILENT = Node(id="n", healthy=False, heard=False)
LARGE = 40_000


def large(name: str = "m", **fields: Any) -> Any:
    return model(name, LARGE, **fields)


def alone(name: str = "x", **fields: Any) -> list[Any]:
    return [replica(name, mib=LARGE, **fields)]


def test_the_least_recently_used_replica_makes_room() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    there = [
        *alone("fresh", last_used_at=NOW - 50),
        *alone("stale", last_used_at=NOW - 300, devices=("cuda:1",)),
    ]
    found = actions([large(), large("fresh"), large("stale")], asked(), replicas=there, devices=cards)
    assert found == [Drain("stale-1", "making room for m: work waits for it")]


def test_nothing_starts_in_the_room_before_it_is_free() -> None:
    assert starts(actions([large(), large("x")], asked(), replicas=alone(), devices=ONE)) == []


def test_no_more_leave_than_have_to() -> None:
    there = [replica("a", mib=8_000, last_used_at=NOW - 300), replica("b", mib=32_000, last_used_at=NOW - 200)]
    models = [model("m", 30_000), model("a"), model("b")]
    assert sent_away(actions(models, asked(), replicas=there, devices=ONE)) == ["b-1"]


def test_several_leave_where_one_is_not_enough() -> None:
    there = [replica(name, mib=12_000) for name in "abcd"]
    models = [model("m", 20_000), *(model(name) for name in "abcd")]
    assert len(sent_away(actions(models, asked(), replicas=there, devices=ONE))) == 2


def test_nobody_leaves_where_it_would_not_help() -> None:
    """A foreign process holds what is missing."""
    there = [replica("x", mib=10_000)]
    foreign = [card(free_mib=15_000)]
    assert actions([large(), model("x")], asked(), replicas=there, devices=foreign) == []


@pytest.mark.parametrize("patience_s", [1.0, 1000.0])
@pytest.mark.parametrize("held_by", [{"pinned": True}, {"replicas_min": 1}], ids=["pinned", "kept up by its minimum"])
def test_some_never_leave_whoever_waits_for_however_long(held_by: dict[str, Any], patience_s: float) -> None:
    found = actions([large(), large("x", **held_by)], asked(oldest_s=patience_s), replicas=alone(), devices=ONE)
    assert found == []


def test_a_pinned_model_loses_none_of_its_replicas_to_others() -> None:
    two = [replica("x", f"x-{i}", mib=20_000) for i in range(2)]
    models = [large(), model("x", 20_000, pinned=True, replicas_max=2)]
    assert sent_away(actions(models, asked(oldest_s=1000.0), replicas=two, devices=ONE)) == []


@pytest.mark.parametrize("patience_s", [1.0, 1000.0])
def test_what_loads_is_never_evicted(patience_s: float) -> None:
    loading = [starting("x", mib=LARGE)]
    assert actions([large(), large("x")], asked(oldest_s=patience_s), replicas=loading, devices=ONE) == []


@pytest.mark.parametrize("patience_s", [1.0, 1000.0])
def test_an_idle_replica_keeps_its_place_for_a_quarter_of_what_its_load_took(patience_s: float) -> None:
    args: Any = ([large(), large("x", load_s=40.0)], asked(oldest_s=patience_s))
    assert actions(*args, replicas=alone(ready_at=NOW - 9, last_used_at=None), devices=ONE) == []
    served = alone(ready_at=NOW - 10, last_used_at=None)
    assert sent_away(actions(*args, replicas=served, devices=ONE)) == ["x-1"]


@pytest.mark.parametrize(("load_s", "turn_s"), [(1.0, 10.0), (30.0, 30.0), (200.0, 45.0)])
def test_a_busy_replica_has_its_turn_before_it_is_drained(load_s: float, turn_s: float) -> None:
    args: Any = ([large(), large("x", load_s=load_s)], asked(oldest_s=1000.0))
    early = alone(ready_at=NOW - turn_s + 0.1, in_flight=1)
    assert actions(*args, replicas=early, devices=ONE) == []
    late = alone(ready_at=NOW - turn_s, in_flight=1)
    assert sent_away(actions(*args, replicas=late, devices=ONE)) == ["x-1"]


def test_what_is_soon_awake_again_keeps_its_place_for_less_time() -> None:
    roomy = [Node(id="n", ram_free_mib=LARGE)]
    args: Any = ([large(), large("x", load_s=40.0, wake_s=2.0)], asked())
    awake = alone(ready_at=NOW - 0.5, last_used_at=None, **SLEEPY)
    assert [type(one) for one in actions(*args, replicas=awake, devices=ONE, nodes=roomy)] == [Sleep]


def test_the_plan_says_when_a_place_can_be_had() -> None:
    new = alone(ready_at=NOW - 9, last_used_at=None)
    found = planned([large(), large("x", load_s=40.0)], asked(), replicas=new, devices=ONE)
    assert found.again_at == NOW + 1


def test_the_plan_says_when_somebody_will_have_waited_for_too_long() -> None:
    found = planned([large(), large("x")], asked(oldest_s=40.0), replicas=alone(in_flight=1), devices=ONE)
    assert found.again_at == NOW + 5


def test_work_in_flight_is_not_evicted() -> None:
    assert actions([large(), large("x")], asked(), replicas=alone(in_flight=1), devices=ONE) == []


def test_queued_work_is_not_evicted() -> None:
    demands = [asked(), asked("x", oldest_s=0.5)]
    assert actions([large(), large("x")], *demands, replicas=alone(), devices=ONE) == []


def test_at_the_age_limit_a_busy_replica_is_drained() -> None:
    args: Any = [large(), large("x")]
    busy = alone(in_flight=3)
    assert actions(args, asked(oldest_s=44.9), replicas=busy, devices=ONE) == []
    found = actions(args, asked(oldest_s=45.0), replicas=busy, devices=ONE)
    assert found == [Drain("x-1", "making room for m: has waited for too long")]


def test_bulk_work_waits_longer_before_anybody_is_drained_for_it() -> None:
    args: Any = [large(), large("x")]
    busy = alone(in_flight=3)
    bulk: dict[str, Any] = {"interactive": 0, "bulk": 50}
    patient = asked(**bulk, bulk_oldest_s=899.0)
    assert actions(args, patient, replicas=busy, devices=ONE) == []
    assert sent_away(actions(args, asked(**bulk, bulk_oldest_s=900.0), replicas=busy, devices=ONE)) == ["x-1"]


def test_of_busy_ones_the_least_busy_is_drained() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    there = [*alone("a", in_flight=3), *alone("b", in_flight=1, devices=("cuda:1",))]
    found = actions([large(), large("a"), large("b")], asked(oldest_s=60.0), replicas=there, devices=cards)
    assert sent_away(found) == ["b-1"]


def test_an_idle_one_goes_before_a_busy_one_however_fresh() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    there = [
        *alone("busy", in_flight=1, last_used_at=NOW - 300),
        *alone("idle", last_used_at=NOW - 1, devices=("cuda:1",)),
    ]
    found = actions([large(), large("busy"), large("idle")], asked(oldest_s=60.0), replicas=there, devices=cards)
    assert sent_away(found) == ["idle-1"]


def test_who_has_waited_even_longer_keeps_its_last_replica() -> None:
    demands = [asked(oldest_s=50.0), asked("x", oldest_s=51.0)]
    assert actions([large(), large("x")], *demands, replicas=alone(in_flight=4), devices=ONE) == []


def test_a_model_that_is_served_does_not_push_out_what_was_just_used() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    full = replica("m", mib=LARGE, in_flight=4, devices=("cuda:1",))
    growing = [large(replicas_max=2), large("x")]
    more = asked(interactive=8, oldest_s=6.0)
    recent = [*alone(last_used_at=NOW - 59), full]
    assert sent_away(actions(growing, more, replicas=recent, devices=cards)) == []
    overdue = asked(interactive=8, oldest_s=45.0)
    assert sent_away(actions(growing, overdue, replicas=recent, devices=cards)) == ["x-1"]
    unused = [*alone(last_used_at=NOW - 61), full]
    assert sent_away(actions(growing, more, replicas=unused, devices=cards)) == ["x-1"]


def test_a_model_keeps_its_minimum_also_when_two_of_its_replicas_could_leave() -> None:
    there = [replica("x", f"x-{i}", mib=20_000) for i in range(2)]
    models = [model("m", 38_000), model("x", 20_000, replicas_min=1, replicas_max=2)]
    assert sent_away(actions(models, asked(), replicas=there, devices=ONE)) == []
    models = [model("m", 25_000), model("x", 20_000, replicas_min=1, replicas_max=2)]
    assert len(sent_away(actions(models, asked(), replicas=there, devices=ONE))) == 1


def test_all_devices_of_a_tensor_parallel_model_are_cleared() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    there = [*alone("a"), *alone("b", devices=("cuda:1",))]
    wide = model("m", needs=(Need(DeviceKind.CUDA, LARGE, devices=2),))
    assert sent_away(actions([wide, large("a"), large("b")], asked(), replicas=there, devices=cards)) == ["a-1", "b-1"]


def test_a_replica_on_two_devices_makes_room_on_either() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    wide = [replica("wide", mib=LARGE, devices=("cuda:0", "cuda:1"))]
    assert sent_away(actions([large(), model("wide")], asked(), replicas=wide, devices=cards)) == ["wide-1"]


def test_an_exclusive_model_has_the_whole_device_cleared() -> None:
    there = [replica("a", mib=1_000), replica("b", mib=1_000)]
    models = [model(exclusive=True), model("a"), model("b")]
    assert sorted(sent_away(actions(models, asked(), replicas=there, devices=ONE))) == ["a-1", "b-1"]


def test_an_exclusive_model_clears_nothing_where_one_would_stay() -> None:
    there = [replica("a", mib=1_000), replica("b", mib=1_000, in_flight=1)]
    models = [model(exclusive=True), model("a"), model("b")]
    assert sent_away(actions(models, asked(), replicas=there, devices=ONE)) == []


SLEEPY: dict[str, Any] = {"can_sleep": True, "sleep_mib": 500, "sleep_ram_mib": LARGE}


def test_the_victim_sleeps_where_it_can() -> None:
    roomy = [Node(id="n", ram_free_mib=LARGE)]
    found = actions([large(), large("x")], asked(), replicas=alone(**SLEEPY), devices=ONE, nodes=roomy)
    assert found == [Sleep("x-1", "making room for m: work waits for it")]


def test_the_victim_ends_where_sleeping_would_leave_too_little() -> None:
    roomy = [Node(id="n", ram_free_mib=LARGE)]
    tight = model("m", 47_800)
    found = actions([tight, large("x")], asked(), replicas=alone(**SLEEPY), devices=ONE, nodes=roomy)
    assert [type(one) for one in found] == [Drain]


def test_one_that_sleeps_ends_where_even_its_rest_is_needed() -> None:
    there = alone(**SLEEPY, state=ReplicaState.SLEEPING)
    found = actions([model("m", 47_800), large("x")], asked(), replicas=there, devices=ONE)
    assert [type(one) for one in found] == [Drain]


def test_somebody_may_be_put_to_sleep_for_one_that_wakes() -> None:
    asleep = [replica("m", mib=LARGE, state=ReplicaState.SLEEPING, sleep_mib=500)]
    roomy = [Node(id="n", ram_free_mib=LARGE)]
    args: Any = ([large(), large("x")], asked())
    found = actions(*args, replicas=[*asleep, *alone(**SLEEPY)], devices=ONE, nodes=roomy)
    assert found == [Sleep("x-1", "making room for m: work waits for it")]


def test_room_is_made_for_so_many_a_tick_and_the_most_urgent_come_first() -> None:
    cards = [card(f"cuda:{i}") for i in range(3)]
    there = [replica(f"x{i}", mib=LARGE, devices=(f"cuda:{i}",)) for i in range(3)]
    models = [large(name) for name in ("a", "b", "c", "x0", "x1", "x2")]
    demands = [asked("a"), asked("b", interactive=5), asked("c", interactive=9)]
    found = actions(models, *demands, replicas=there, devices=cards, limits=Limits(room_makers=2))
    assert len(sent_away(found)) == 2
    assert all(one.why.startswith(("making room for b", "making room for c")) for one in found)  # type: ignore[union-attr]


def test_who_has_to_wait_learns_that_its_turn_comes() -> None:
    found = explained("m", [large(), large("x")], asked(), replicas=alone(in_flight=1), devices=ONE)
    assert (found.outlook, found.code) == (Outlook.IN_TURN, None)


def test_who_cannot_get_room_is_told_at_once() -> None:
    found = explained("m", [large(), large("x", pinned=True)], asked(), replicas=alone(), devices=ONE)
    assert (found.outlook, found.code) == (Outlook.NO_CAPACITY, "pool_exhausted")
    assert found.retry_after_s


def test_room_that_another_gets_in_the_same_tick_is_not_lost_for_good() -> None:
    assert explained("b", [large("a"), large("b")], asked("a", 2), asked("b"), devices=ONE).outlook is Outlook.IN_TURN


def test_room_that_a_pinned_model_gets_is() -> None:
    models = [large("a", pinned=True), large("b")]
    assert explained("b", models, asked("b"), devices=ONE).outlook is Outlook.NO_CAPACITY


@pytest.mark.parametrize(
    "fields",
    [
        {"devices": []},
        {"devices": ONE, "nodes": [SILENT]},
        {"devices": [card(healthy=False), card(node="small", total_mib=100)], "nodes": [SILENT, Node(id="small")]},
    ],
    ids=["nothing is known yet", "silent", "another could not"],
)
def test_who_waits_for_a_machine_to_come_back_is_refused_only_after_a_while(fields: dict[str, Any]) -> None:
    found = planned([large()], asked(oldest_s=5.0), **fields)
    assert found.explanations["m"].outlook is Outlook.NO_MACHINE
    assert found.explanations["m"].code is None
    assert found.again_at == NOW + Limits().machine_wait_s - 5.0
    late = explained("m", [large()], asked(oldest_s=Limits().machine_wait_s), **fields)
    assert (late.outlook, late.code) == (Outlook.NO_CAPACITY, "pool_exhausted")


def test_who_waits_for_a_machine_that_says_that_it_cannot_is_refused_at_once() -> None:
    for broken in ({"devices": ONE, "nodes": [Node(id="n", healthy=False)]}, {"devices": [card(healthy=False)]}):
        assert explained("m", [large()], asked(), **broken).outlook is Outlook.NO_CAPACITY


def test_an_operator_learns_at_once_that_no_machine_is_there() -> None:
    found = explained("m", [large()], asked(interactive=0, load=True), devices=[])
    assert found.outlook is Outlook.NO_CAPACITY

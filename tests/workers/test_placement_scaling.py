"""How many replicas a model gets, and when they go again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.placement_facts import (
    NOW,
    Limits,
    actions,
    asked,
    model,
    replica,
    sent_away,
    starting,
    starts,
)
from workers.placement.actions import Sleep, Start, Wake
from workers.placement.facts import Demand, Node
from workers.replicas import ReplicaState

MANY: dict[str, Any] = {"replicas_max": 8, "mib": 4_000}
PATIENT = Limits(loads_at_once=8)


def up(n: int, **fields: Any) -> list[Any]:
    defaults = {"mib": 4_000, "in_flight": 4, **fields}
    return [replica("m", f"m-{i}", slot=i, **defaults) for i in range(n)]


def test_a_cold_model_is_loaded_for_its_first_request() -> None:
    assert starts(actions([model()], asked())) == [("m", ("cuda:0",))]


def test_a_model_that_nobody_asks_for_is_not_loaded() -> None:
    assert actions([model()]) == []


def test_a_model_that_is_loading_is_not_loaded_again() -> None:
    assert actions([model()], asked(interactive=3), replicas=[starting()]) == []


def test_a_replica_answers_as_many_as_it_has_seats() -> None:
    assert actions([model(**MANY)], asked(interactive=2), replicas=up(1, in_flight=2)) == []


def test_more_work_than_seats_gets_as_many_replicas_as_it_fills() -> None:
    """Four seats each: 11 more requests than seats are three replicas' worth."""
    assert len(starts(actions([model(**MANY)], asked(interactive=11), replicas=up(1), limits=PATIENT))) == 3


def test_a_flood_on_a_cold_model_starts_several() -> None:
    assert len(starts(actions([model(**MANY)], asked(interactive=9), limits=PATIENT))) == 3


def test_there_are_never_more_than_its_maximum() -> None:
    few = model(replicas_max=2, mib=4_000)
    assert len(starts(actions([few], asked(interactive=90), limits=PATIENT))) == 2
    assert starts(actions([few], asked(interactive=90), replicas=up(2), limits=PATIENT)) == []


def test_one_request_too_many_starts_nothing_until_it_has_waited() -> None:
    assert starts(actions([model(**MANY)], asked(interactive=1, oldest_s=1.0), replicas=up(1))) == []
    assert len(starts(actions([model(**MANY)], asked(interactive=1, oldest_s=5.0), replicas=up(1)))) == 1


def test_replicas_on_their_way_count_as_seats() -> None:
    coming = [*up(1), starting("m", "m-1", mib=4_000)]
    assert starts(actions([model(**MANY)], asked(interactive=4, oldest_s=9.0), replicas=coming)) == []


def test_an_engine_with_free_seats_that_takes_nothing_gets_help() -> None:
    """Its KV cache is full: seats say nothing then, the age of the oldest request does."""
    half = up(1, in_flight=2)
    assert starts(actions([model(**MANY)], asked(oldest_s=14.0), replicas=half)) == []
    assert len(starts(actions([model(**MANY)], asked(oldest_s=15.0), replicas=half))) == 1


def test_help_for_a_slow_engine_comes_with_pauses() -> None:
    demand = asked(oldest_s=50.0, scaled_at=NOW - 59)
    assert starts(actions([model(**MANY)], demand, replicas=up(1, in_flight=2))) == []


def test_the_minimum_is_kept_without_a_request() -> None:
    assert len(starts(actions([model(replicas_min=2, replicas_max=2)]))) == 2


def test_a_pinned_model_is_loaded_without_a_request() -> None:
    assert len(starts(actions([model(pinned=True)]))) == 1


def test_a_replica_goes_after_its_time_to_live() -> None:
    old = [replica(last_used_at=NOW - 901)]
    assert sent_away(actions([model(idle_ttl_s=900.0)], replicas=old)) == ["m-1"]
    assert actions([model(idle_ttl_s=900.0)], replicas=[replica(last_used_at=NOW - 899)]) == []


def test_a_replica_without_a_time_to_live_stays() -> None:
    assert actions([model(idle_ttl_s=None)], replicas=[replica(last_used_at=NOW - 1e6)]) == []


def test_a_long_load_does_not_count_as_idleness() -> None:
    fresh = [replica(started_at=NOW - 1000, ready_at=NOW - 1, last_used_at=None)]
    assert actions([model(idle_ttl_s=60.0)], replicas=fresh) == []


def test_idle_replicas_all_go_but_the_minimum() -> None:
    old = up(3, in_flight=0, last_used_at=NOW - 901)
    kept = model(replicas_min=1, replicas_max=3, mib=4_000)
    assert len(sent_away(actions([kept], replicas=old))) == 2


@pytest.mark.parametrize("still_used", [{"in_flight": 1}, {"state": ReplicaState.STARTING}])
def test_what_is_in_use_has_no_time_to_live(still_used: dict[str, Any]) -> None:
    there = [replica(started_at=NOW - 1000, ready_at=None, last_used_at=NOW - 901, **still_used)]
    assert actions([model(idle_ttl_s=60.0)], replicas=there) == []


def test_one_replica_goes_when_the_others_would_have_held_the_peak() -> None:
    """Two others have eight seats; 70 % of them are five."""
    quiet = up(3, in_flight=0, last_used_at=NOW - 5)
    assert len(sent_away(actions([model(**MANY)], Demand(model="m", peak=5), replicas=quiet))) == 1
    assert actions([model(**MANY)], Demand(model="m", peak=6), replicas=quiet) == []


def test_nothing_goes_while_the_recent_peak_is_not_known() -> None:
    assert actions([model(**MANY)], Demand(model="m", peak=None), replicas=up(3, in_flight=0)) == []


def test_nothing_goes_soon_after_the_last_change() -> None:
    demand = Demand(model="m", peak=0, scaled_at=NOW - 59)
    assert actions([model(**MANY)], demand, replicas=up(3, in_flight=0)) == []


def test_the_last_replica_goes_by_its_time_to_live_alone() -> None:
    assert actions([model(**MANY)], Demand(model="m", peak=0), replicas=up(1, in_flight=0)) == []


def test_a_replica_with_work_in_flight_is_not_the_one_to_go() -> None:
    mixed = [*up(2, in_flight=1), replica("m", "idle", mib=4_000)]
    assert sent_away(actions([model(**MANY)], Demand(model="m", peak=2), replicas=mixed)) == ["idle"]


def test_one_that_fails_goes_first() -> None:
    mixed = [replica("m", "old", last_used_at=NOW - 300), replica("m", "broken", last_used_at=NOW - 1, failures=2)]
    assert sent_away(actions([model(replicas_max=2)], Demand(model="m", peak=1), replicas=mixed)) == ["broken"]


def test_replicas_above_the_maximum_go_when_they_are_idle() -> None:
    many = [*up(1), replica("m", "idle", mib=4_000)]
    assert sent_away(actions([model(replicas_max=1)], replicas=many)) == ["idle"]


def test_replicas_of_a_model_that_is_no_longer_served_go() -> None:
    assert sent_away(actions([], replicas=[replica("gone")])) == ["gone-1"]


def test_what_can_sleep_sleeps_instead_of_ending() -> None:
    old = [replica(last_used_at=NOW - 901, can_sleep=True, sleep_mib=500, sleep_ram_mib=9_000)]
    roomy, full = Node(id="n", ram_free_mib=9_000), Node(id="n", ram_free_mib=8_999)
    assert [type(one) for one in actions([model()], replicas=old, nodes=[roomy])] == [Sleep]
    assert [type(one) for one in actions([model()], replicas=old, nodes=[full])] != [Sleep]


def test_nothing_sleeps_where_memory_is_not_known() -> None:
    old = [replica(last_used_at=NOW - 901, can_sleep=True)]
    assert [type(one) for one in actions([model()], replicas=old, nodes=[Node(id="n")])] != [Sleep]


def test_two_do_not_sleep_in_the_memory_of_one() -> None:
    old = [
        replica(name, last_used_at=NOW - 901, can_sleep=True, sleep_mib=500, sleep_ram_mib=9_000) for name in ("a", "b")
    ]
    found = actions([model("a"), model("b")], replicas=old, nodes=[Node(id="n", ram_free_mib=10_000)])
    assert sorted(type(one).__name__ for one in found) == ["Drain", "Sleep"]


def asleep(**fields: Any) -> list[Any]:
    return [replica(state=ReplicaState.SLEEPING, sleep_mib=500, slept_at=NOW - 60, **fields)]


def test_a_sleeping_replica_is_woken_rather_than_another_started() -> None:
    assert actions([model()], asked(), replicas=asleep()) == [Wake("m-1", "work waits for it")]


def test_a_sleeping_replica_does_not_wake_where_its_room_is_taken() -> None:
    busy = [replica("x", mib=40_000, in_flight=1)]
    (start,) = actions([model(), model("x", mib=40_000)], asked(), replicas=[*asleep(), *busy])
    assert isinstance(start, Start)
    assert start.devices == ("cuda:1",)


def test_a_replica_that_slept_for_too_long_ends() -> None:
    long = Limits(sleep_ttl_s=59.0)
    assert sent_away(actions([model()], replicas=asleep(), limits=long)) == ["m-1"]


def test_a_model_that_is_falling_asleep_is_woken_after_that() -> None:
    dozing = [replica(told=ReplicaState.SLEEPING, told_at=NOW - 1, can_sleep=True)]
    assert actions([model()], asked(), replicas=dozing) == []


def test_an_operator_can_load_a_model() -> None:
    assert len(starts(actions([model()], Demand(model="m", load=True)))) == 1


def test_what_an_operator_loads_has_no_time_to_live_until_it_is_used() -> None:
    loaded = [replica(last_used_at=NOW - 901)]
    assert actions([model()], Demand(model="m", load=True), replicas=loaded) == []


def test_an_operator_can_unload_a_model_even_a_pinned_one_in_use() -> None:
    """It is drained: what it has in flight ends well."""
    found = actions([model(pinned=True)], Demand(model="m", unload=True), replicas=[replica(in_flight=2)])
    assert [type(one).__name__ for one in found] == ["Drain"]


def test_a_pinned_model_that_was_unloaded_stays_away_until_it_is_asked_for() -> None:
    assert actions([model(pinned=True)], Demand(model="m", unload=True)) == []


def test_work_that_waits_is_served_before_an_unload() -> None:
    assert sent_away(actions([model()], asked(unload=True), replicas=[replica(in_flight=1)])) == []

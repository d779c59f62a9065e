"""What may be placed where, and what counts as free."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.placement_facts import (
    NOW,
    Limits,
    actions,
    asked,
    card,
    explained,
    failed,
    model,
    replica,
    starting,
    starts,
)
from workers.devices import DeviceKind
from workers.placement.actions import Outlook
from workers.placement.facts import Need, Node, Place, Reservation
from workers.placement.reliability import Reliability
from workers.replicas import ReplicaState

ONE = [card("cuda:0")]


def reservation(**fields: Any) -> Reservation:
    defaults: dict[str, Any] = {"replica": "x-1", "model": "x", "node": "n", "devices": ("cuda:0",), "slot": 0}
    return Reservation(**{**defaults, "mib": 40_000, "expires_at": NOW + 10, **fields})


def test_a_model_goes_to_the_card_with_most_free_memory() -> None:
    cards = [card("cuda:0", 20_000), card("cuda:1", 30_000), card("cuda:2", 25_000)]
    assert starts(actions([model()], asked(), devices=cards)) == [("m", ("cuda:1",))]


def test_a_foreign_process_takes_room_away() -> None:
    assert starts(actions([model(mib=10_000)], asked(), devices=[card(free_mib=9_999)])) == []


def test_what_is_promised_but_not_taken_yet_is_not_free() -> None:
    """Measured free memory knows nothing of a replica that has just begun to load."""
    loading = [starting("x", mib=40_000)]
    assert starts(actions([model(), model("x")], asked(), replicas=loading, devices=[card(free_mib=48_000)])) == []


def test_what_is_promised_is_taken_off_what_foreign_processes_leave() -> None:
    loading = [starting("x", mib=20_000)]
    foreign = [card(free_mib=29_000)]
    assert starts(actions([model(), model("x")], asked(), replicas=loading, devices=foreign)) == []


def test_what_a_ready_replica_may_still_take_is_not_free() -> None:
    """The simulated engine takes next to nothing, and main memory is taken page by page."""
    lazy = [replica("x", mib=20_000)]
    assert (
        starts(actions([model(mib=30_000), model("x")], asked(), replicas=lazy, devices=[card(free_mib=47_000)])) == []
    )


def test_what_a_loading_replica_has_taken_already_is_not_counted_twice() -> None:
    loading = [starting("x", mib=20_000, used_mib=20_000)]
    halfway = [card(free_mib=28_000)]
    assert starts(actions([model(mib=28_000), model("x")], asked(), replicas=loading, devices=halfway))


def test_a_measurement_from_before_a_replica_was_ready_does_not_know_of_it() -> None:
    new = [replica("x", mib=20_000, ready_at=NOW - 1)]
    old = [card(free_mib=29_000, measured_at=NOW - 3)]
    assert starts(actions([model(), model("x")], asked(), replicas=new, devices=old)) == []


def test_a_reservation_holds_its_room() -> None:
    assert starts(actions([model(), model("x")], asked(), devices=ONE, reservations=[reservation()])) == []


def test_a_reservation_that_ran_out_holds_nothing() -> None:
    late = reservation(expires_at=NOW - 1)
    assert starts(actions([model(), model("x")], asked(), devices=ONE, reservations=[late]))


def test_a_reservation_whose_replica_is_there_counts_once() -> None:
    seen = [starting("x", "x-1", mib=20_000)]
    promised = [reservation(mib=20_000)]
    found = actions([model(mib=28_000), model("x")], asked(), replicas=seen, devices=ONE, reservations=promised)
    assert starts(found) == [("m", ("cuda:0",))]


def test_memory_is_free_once_a_process_is_gone_not_once_it_was_told_to_go() -> None:
    leaving = [replica("x", mib=40_000, state=ReplicaState.DRAINING, in_flight=1)]
    assert starts(actions([model(), model("x")], asked(), replicas=leaving, devices=ONE)) == []


def test_room_already_on_its_way_is_waited_for() -> None:
    leaving = [replica("x", mib=40_000, state=ReplicaState.DRAINING, in_flight=1), replica("y", mib=5_000)]
    args: Any = ([model(mib=40_000), model("x"), model("y")], asked())
    assert actions(*args, replicas=leaving, devices=ONE) == []
    assert explained("m", *args, replicas=leaving, devices=ONE).outlook is Outlook.MAKING_ROOM


def test_two_models_do_not_wait_for_the_same_room() -> None:
    leaving = [replica("x", mib=40_000, state=ReplicaState.DRAINING, in_flight=1), replica("y", mib=8_000)]
    models = [model("a", 40_000), model("b", 8_000), model("x"), model("y")]
    found = actions(models, asked("a", 3), asked("b"), replicas=leaving, devices=ONE)
    assert [action.replica for action in found] == ["y-1"]  # type: ignore[union-attr]


@pytest.mark.parametrize("unknown", [{"free_mib": None}, {"total_mib": None}, {"healthy": False}])
def test_nothing_is_placed_on_a_device_of_which_nothing_is_known(unknown: dict[str, Any]) -> None:
    assert actions([model()], asked(), devices=[card(**unknown)]) == []


def test_nothing_is_placed_on_a_node_that_is_dead() -> None:
    assert actions([model()], asked(), devices=ONE, nodes=[Node(id="n", healthy=False)]) == []


def test_a_model_goes_only_where_it_can_run() -> None:
    cards = [card("cpu", kind=DeviceKind.CPU), card("cuda:0", 20_000)]
    assert starts(actions([model()], asked(), devices=cards)) == [("m", ("cuda:0",))]


def test_the_better_way_to_run_is_taken_where_there_is_room_for_it() -> None:
    both = model(needs=(Need(DeviceKind.CUDA, 10_000), Need(DeviceKind.CPU, 12_000)))
    cpu = card("cpu", kind=DeviceKind.CPU)
    assert starts(actions([both], asked(), devices=[cpu, card(free_mib=10_000)])) == [("m", ("cuda:0",))]
    assert starts(actions([both], asked(), devices=[cpu, card(free_mib=9_000)])) == [("m", ("cpu",))]


def test_tensor_parallel_takes_devices_of_one_node_only() -> None:
    large = model(needs=(Need(DeviceKind.CUDA, 40_000, devices=2),))
    apart = [card("cuda:0"), card("cuda:0", node="o"), card("cuda:1", 30_000, node="o")]
    assert starts(actions([large], asked(), devices=apart)) == []
    together = [*apart, card("cuda:2", 41_000, node="o")]
    found = actions([large], asked(), devices=together)
    assert starts(found) == [("m", ("cuda:0", "cuda:2"))]


def test_a_device_takes_no_more_replicas_than_it_has_slots() -> None:
    there = [replica("x", mib=1_000), replica("y", mib=1_000)]
    models = [model(), model("x", pinned=True), model("y", pinned=True)]
    assert starts(actions(models, asked(), replicas=there, devices=[card(slots=2)])) == []
    assert starts(actions(models, asked(), replicas=there, devices=[card(slots=3)])) == [("m", ("cuda:0",))]


def test_a_model_stays_at_the_places_it_is_given_and_spreads_over_them() -> None:
    places = frozenset({Place("n", "cuda:0"), Place("n", "cuda:1")})
    spread = model(pinned=True, replicas_min=2, places=places)
    cards = [card("cuda:0"), card("cuda:1", 20_000), card("cuda:2")]
    assert sorted(starts(actions([spread], devices=cards))) == [("m", ("cuda:0",)), ("m", ("cuda:1",))]


def test_an_exclusive_model_is_alone_on_its_device() -> None:
    alone = model("alone", exclusive=True)
    other = [replica("x", in_flight=1)]
    assert starts(actions([alone, model("x")], asked("alone"), replicas=other, devices=ONE)) == []
    there = [replica("alone", in_flight=1)]
    assert starts(actions([alone, model("x")], asked("x"), replicas=there, devices=ONE)) == []


def test_who_sleeps_is_not_in_the_way_of_an_exclusive_model() -> None:
    asleep = [replica("x", state=ReplicaState.SLEEPING, sleep_mib=500)]
    found = actions([model("alone", exclusive=True), model("x")], asked("alone"), replicas=asleep, devices=ONE)
    assert starts(found) == [("alone", ("cuda:0",))]


def test_a_node_loads_only_so_many_at_once() -> None:
    models = [model(name, 1_000) for name in "abc"]
    demands = [asked(name) for name in "abc"]
    assert len(starts(actions(models, *demands, limits=Limits(loads_at_once=2)))) == 2
    last = explained("c", models, *demands, limits=Limits(loads_at_once=2))
    assert (last.outlook, last.text) == (Outlook.IN_TURN, "n has room for it, and is loading others first")


def test_a_node_does_not_load_all_the_time() -> None:
    node = Node(id="n", loads=tuple(NOW - second for second in range(10)))
    assert starts(actions([model()], asked(), nodes=[node], limits=Limits(loads_per_minute=10))) == []
    assert starts(actions([model()], asked(), nodes=[node], limits=Limits(loads_per_minute=11)))


UNRELIABLE = Reliability(successes=1.0, failures=3.0, at=NOW)


def test_a_reliable_node_goes_before_an_emptier_one() -> None:
    nodes = [Node(id="n"), Node(id="o", reliability=UNRELIABLE)]
    cards = [card("cuda:0", 12_000), card("cuda:0", node="o")]
    (start,) = actions([model()], asked(), devices=cards, nodes=nodes)
    assert getattr(start, "node", None) == "n"


def test_an_unreliable_node_gets_one_load_at_a_time_as_a_probe() -> None:
    models = [model("a"), model("b")]
    demands = [asked("a"), asked("b")]
    full = [card("cuda:0"), card("cuda:0", 0, node="o")]
    probed = Node(id="n", reliability=UNRELIABLE, loads=(NOW - 100,))
    assert len(starts(actions(models, *demands, devices=full, nodes=[probed, Node(id="o")]))) == 1
    just_probed = Node(id="n", reliability=UNRELIABLE, loads=(NOW - 10,))
    assert starts(actions(models, *demands, devices=full, nodes=[just_probed, Node(id="o")])) == []


@pytest.mark.parametrize(
    "others",
    [
        [],
        [Node(id="o", reliability=UNRELIABLE)],
        [Node(id="o", healthy=False)],
        [Node(id="cpu-only")],
    ],
)
def test_a_node_that_nobody_can_stand_in_for_is_not_barred(others: list[Node]) -> None:
    cards = [card("cuda:0"), card("cuda:0", 0, node="o"), card("cpu", node="cpu-only", kind=DeviceKind.CPU)]
    node = Node(id="n", reliability=UNRELIABLE, loads=(NOW - 10,))
    demands = [asked("a"), asked("b")]
    assert len(starts(actions([model("a"), model("b")], *demands, devices=cards, nodes=[node, *others]))) == 2


def test_another_node_is_tried_after_a_load_failed() -> None:
    cards = [card("cuda:0"), card("cuda:0", 20_000, node="o")]
    failures = [failed(ago_s=60, nodes=frozenset({"n"}))]
    (start,) = actions([model()], asked(), devices=cards, failures=failures)
    assert getattr(start, "node", None) == "o"

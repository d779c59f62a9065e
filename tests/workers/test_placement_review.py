"""What the review of an earlier design found, each as a test by its name, as far as the planner can have the bug."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.placement_facts import (
    NOW,
    Limits,
    Rollout,
    actions,
    asked,
    card,
    explained,
    failed,
    model,
    planned,
    replica,
    sent_away,
    starting,
    starts,
)
from workers.devices import DeviceKind
from workers.placement.actions import Outlook
from workers.placement.facts import Demand, Need, Node, Place, Reservation
from workers.replicas import ReplicaState

ONE = [card("cuda:0")]
LARGE = 40_000
MOVE = [Rollout("heavy", desired="new", previous="old")]
BUILDS = [model("new"), model("old")]


def test_pool_seeded_by_raw_model_count_instead_of_alias() -> None:
    """An alias with two builds asks for one of them, not for two."""
    assert starts(actions(BUILDS, asked("new"), rollouts=MOVE)) == [("new", ("cuda:0",))]


def test_a_shared_build_pinned_to_the_first_alias() -> None:
    """It may be on the devices of every alias that it belongs to."""
    shared = model("shared", aliases=("first", "second"))
    for alias in ("first", "second", "third"):
        mine = Rollout("third", desired="shared")
        found = actions([shared], asked("shared"), devices=[card(bound_to=alias)], rollouts=[mine])
        assert starts(found) == [("shared", ("cuda:0",))], alias


def test_a_shared_build_is_not_sent_away_by_one_of_its_aliases() -> None:
    """`old` is the past of one alias and the present of the other."""
    rollouts = [*MOVE, Rollout("light", desired="old")]
    up = [replica("new"), replica("old", last_used_at=NOW - 600)]
    assert sent_away(actions(BUILDS, replicas=up, rollouts=MOVE)) == ["old-1"]
    assert sent_away(actions(BUILDS, replicas=up, rollouts=rollouts)) == []


@pytest.mark.parametrize("fields", [{"pinned": True}, {"aliases": ("heavy",)}], ids=["pinned", "by alias"])
def test_a_pinned_alias_answering_503_instead_of_429(fields: dict[str, Any]) -> None:
    taken = [replica("x", mib=LARGE)]
    models = [model("m", LARGE, **fields), model("x", LARGE, pinned=True)]
    assert explained("m", models, asked("m"), replicas=taken, devices=ONE).code == "pool_exhausted"


@pytest.mark.parametrize(
    "useless",
    [
        card("a", kind=DeviceKind.CPU),
        card("a", healthy=False),
        card("a", free_mib=None),
        card("a", bound_to="other"),
        card("a", slots=0),
        card("a", node="dead"),
        card("a", node="never heard of"),
    ],
    ids=["wrong kind", "broken", "unknown", "bound", "no slot", "dead node", "no such node"],
)
def test_candidates_filtered_too_late_so_that_a_device_is_reserved_which_cannot_be_used(useless: Any) -> None:
    """The other card has less room, and is the only one that can be used."""
    nodes = [Node(id="n"), Node(id="dead", healthy=False)]
    cards = [useless, card("z", free_mib=11_000)]
    found = actions([model("m"), model("other")], asked("m"), devices=cards, nodes=nodes)
    assert starts(found) == [("m", ("z",))]


def test_nobody_leaves_a_device_that_could_not_be_used_then() -> None:
    """Filtered too late, the idle one on the bound card would go, tick after tick; with two devices, one of a pair."""
    cards = [card("cuda:0", bound_to="other"), card("cuda:1"), card("cuda:0", node="o"), card("cuda:1", node="o")]
    there = [
        replica("x", "bound", devices=("cuda:0",), mib=LARGE, last_used_at=NOW - 900),
        replica("x", "left", node="o", devices=("cuda:0",), mib=LARGE, last_used_at=NOW - 100),
        replica("x", "right", node="o", devices=("cuda:1",), mib=LARGE, last_used_at=NOW - 100),
        replica("x", "free", devices=("cuda:1",), mib=LARGE, last_used_at=NOW - 100),
    ]
    models = [model("m", LARGE), model("x", replicas_max=9), model("other")]
    assert "bound" not in sent_away(actions(models, asked("m"), replicas=there, devices=cards))
    pair = model("m", needs=(Need(DeviceKind.CUDA, LARGE, devices=2),))
    found = sent_away(actions([pair, *models[1:]], asked("m"), replicas=there, devices=cards))
    assert sorted(found) == ["left", "right"]


@pytest.mark.parametrize(
    ("what", "cards"),
    [
        (model("m", 50_000), ONE),
        (model("m", needs=()), ONE),
        (model("m"), [card("cpu", kind=DeviceKind.CPU)]),
        (model("m", places=frozenset({Place("n", "cuda:7")})), ONE),
    ],
    ids=["too large", "cannot be served", "no such device", "no such place"],
)
def test_capability_errors_hidden_behind_429(what: Any, cards: Any) -> None:
    found = explained("m", [what], asked("m"), devices=cards)
    assert (found.outlook, found.code) == (Outlook.CANNOT_RUN, "model_load_failed")
    assert "celerity doctor" in found.text


def test_a_model_that_models_yaml_keeps_away_is_told_so() -> None:
    for kept in ({"devices": [card(bound_to="x")]}, {"devices": ONE}):
        places = frozenset({Place("gone", "cuda:0")}) if kept["devices"] is ONE else frozenset()
        found = explained("m", [model("m", places=places), model("x")], asked(), **kept)
        assert found.code == "model_load_failed"
        assert "models.yaml keeps it from every device" in found.text


def test_a_device_that_may_come_back_is_a_shortage_and_no_lack_of_capability() -> None:
    dead = {"devices": ONE, "nodes": [Node(id="n", healthy=False)]}
    assert explained("m", [model("m", LARGE)], asked("m"), **dead).code == "pool_exhausted"
    assert explained("m", [model("m", LARGE)], asked("m", oldest_s=60.0), devices=[], nodes=[]).code == "pool_exhausted"


def test_idle_unassigned_nodes_never_assigned() -> None:
    """A device that is bound to nothing is for everybody, also where others are bound."""
    cards = [card("cuda:0", bound_to="other"), card("cuda:0", node="o")]
    found = actions([model("m"), model("other")], asked("m"), devices=cards)
    assert [getattr(one, "node", None) for one in found] == ["o"]


AUTOMATIC: dict[str, dict[str, Any]] = {
    "a request": {"models": [model()], "demands": [asked()]},
    "a pinned model": {"models": [model(pinned=True)]},
    "a minimum": {"models": [model(replicas_min=1)]},
    "growth": {"models": [model(replicas_max=9)], "demands": [asked(interactive=99)], "replicas": [replica()]},
    "time to live": {"models": [model()], "replicas": [replica(last_used_at=NOW - 2000)]},
    "one too many": {
        "models": [model(replicas_max=2)],
        "demands": [Demand(model="m", peak=0)],
        "replicas": [replica(), replica(id_="m-2")],
    },
    "a model taken out": {"models": [], "replicas": [replica()]},
    "a swap": {
        "models": [model(mib=LARGE), model("x")],
        "demands": [asked(oldest_s=99)],
        "replicas": [replica("x", mib=LARGE)],
        "devices": ONE,
    },
    "a rollout": {"models": BUILDS, "replicas": [replica("old")], "rollouts": MOVE},
    "a superseded build": {
        "models": BUILDS,
        "replicas": [replica("new"), replica("old", last_used_at=NOW - 600)],
        "rollouts": MOVE,
    },
    "a previous build": {"models": BUILDS, "demands": [asked("new")], "rollouts": MOVE, "failures": [failed("new")]},
    "waking": {
        "models": [model()],
        "demands": [asked()],
        "replicas": [replica(state=ReplicaState.SLEEPING, slept_at=NOW - 9)],
    },
    "sleeping too long": {"models": [model()], "replicas": [replica(state=ReplicaState.SLEEPING, slept_at=0.0)]},
}


@pytest.mark.parametrize("case", AUTOMATIC.values(), ids=AUTOMATIC)
def test_the_kill_switch_not_honoured_everywhere(case: dict[str, Any]) -> None:
    rest = {key: value for key, value in case.items() if key not in ("models", "demands")}
    args = (case["models"], *case.get("demands", ()))
    assert actions(*args, **rest), "with the switch off there is something to do"
    assert actions(*args, **rest, automatic=False) == []


def test_with_the_kill_switch_on_operators_still_load_and_unload() -> None:
    there = [replica("x")]
    demands = [Demand(model="m", load=True), Demand(model="x", unload=True)]
    found = actions([model("m", pinned=True), model("x")], *demands, replicas=there, automatic=False)
    assert (starts(found), sent_away(found)) == ([("m", ("cuda:1",))], ["x-1"])


def test_with_the_kill_switch_on_nobody_leaves_for_what_an_operator_loads() -> None:
    there = [replica("x", mib=LARGE)]
    order = Demand(model="m", load=True)
    found = planned([model("m", LARGE), model("x")], order, replicas=there, devices=ONE, automatic=False)
    assert found.actions == ()
    assert found.explanations["m"].outlook is Outlook.NO_CAPACITY, "it would wait for ever"


def test_with_the_kill_switch_on_who_waits_for_a_cold_model_is_told_so() -> None:
    found = explained("m", [model()], asked(), automatic=False)
    assert (found.outlook, found.code) == (Outlook.SWITCHED_OFF, "pool_exhausted")


def test_slot_defaults_out_of_step_with_routing() -> None:
    """What a replica says of its seats goes before what its model's entry says."""
    more = model(seats=4, replicas_max=9)
    own = [replica(seats=64, in_flight=30)]
    assert starts(actions([more], asked(interactive=20, oldest_s=9.0), replicas=own)) == []
    assert starts(actions([more], asked(interactive=20, oldest_s=9.0), replicas=[replica(in_flight=30)])) != []


def test_multi_slot_devices_refused_although_a_slot_is_free() -> None:
    bound = [card(exclusive=True, slots=2)]
    grows = model(replicas_max=2)
    found = actions([grows], asked(interactive=9, oldest_s=9.0), replicas=[replica(in_flight=4)], devices=bound)
    assert starts(found) == [("m", ("cuda:0",))]


def test_every_idle_node_assigned_to_the_alphabetically_first_pool() -> None:
    """However large the demand for the first: each gets one replica before any gets two."""
    models = [model(name, LARGE, replicas_max=3) for name in "abc"]
    cards = [card(node=name) for name in "xyz"]
    demands = [asked("a", interactive=500, oldest_s=30.0), asked("b"), asked("c")]
    assert sorted(name for name, _ in starts(actions(models, *demands, devices=cards))) == ["a", "b", "c"]


def test_assignment_before_the_first_heartbeat_freezing_a_node_to_the_wrong_model() -> None:
    """A node that has not spoken gets nothing; when it speaks, it gets what is wanted then."""
    models = [model("early", LARGE), model("late", LARGE)]
    assert actions(models, asked("early"), devices=ONE, nodes=[]) == []
    assert starts(actions(models, asked("late"), devices=ONE)) == [("late", ("cuda:0",))]


def test_shedding_before_the_previous_build_was_tried() -> None:
    """`new` cannot be had: `old` is loaded, and who waits is not refused."""
    done = planned(BUILDS, asked("new"), rollouts=MOVE, failures=[failed("new", count=9)])
    assert starts(done.actions) == [("old", ("cuda:0",))]
    assert (done.explanations["new"].code, done.explanations["new"].instead) == (None, "old")


def test_refused_only_once_the_previous_build_could_not_be_had_either() -> None:
    full = {"replicas": [replica("x", mib=LARGE)], "devices": ONE, "rollouts": MOVE}
    found = explained("new", [*BUILDS, model("x", pinned=True)], asked("new"), **full)
    assert (found.code, found.instead) == ("pool_exhausted", None)


def test_assignments_kept_after_their_alias_is_gone() -> None:
    assert starts(actions([model()], asked(), devices=[card(bound_to="gone")])) == [("m", ("cuda:0",))]
    assert starts(actions([model(), model("x", aliases=("gone",))], asked(), devices=[card(bound_to="gone")])) == []


@pytest.mark.parametrize("waited_s", [1.0, 1000.0])
def test_an_in_flight_load_treated_as_reassignable(waited_s: float) -> None:
    models = [model("m", LARGE, exclusive=True), model("x", LARGE, exclusive=True)]
    loading = [starting("x", mib=LARGE)]
    assert actions(models, asked("m", oldest_s=waited_s), replicas=loading, devices=ONE) == []
    ordered = Reservation(
        replica="x-2", model="x", node="n", devices=("cuda:0",), mib=LARGE, slot=0, expires_at=NOW + 9
    )
    assert actions(models, asked("m", oldest_s=waited_s), reservations=[ordered], devices=ONE) == []


def test_an_exclusive_device_is_reassigned_when_it_is_idle_and_never_when_it_is_busy() -> None:
    models = [model("m", LARGE, exclusive=True), model("x", LARGE, exclusive=True)]
    idle, busy = [replica("x", mib=LARGE)], [replica("x", mib=LARGE, in_flight=1)]
    assert sent_away(actions(models, asked("m"), replicas=idle, devices=ONE)) == ["x-1"]
    assert actions(models, asked("m", oldest_s=1000.0), replicas=busy, devices=ONE) == []
    assert explained("m", models, asked("m"), replicas=busy, devices=ONE).code == "pool_exhausted"


def test_a_static_layout_of_two_heavy_and_two_light_on_two_cards() -> None:
    models = [
        model("heavy", 10_400, pinned=True, replicas_min=2, replicas_max=2),
        model("light", 2_800, pinned=True, replicas_min=2, replicas_max=2),
    ]
    found = starts(actions(models, limits=Limits(loads_at_once=4)))
    assert found[:2] == [("heavy", ("cuda:0",)), ("heavy", ("cuda:1",))]
    assert sorted(found[2:]) == [("light", ("cuda:0",)), ("light", ("cuda:1",))]


def test_a_static_layout_with_both_heavy_ones_on_one_card() -> None:
    first, second = frozenset({Place("n", "cuda:0")}), frozenset({Place("n", "cuda:1")})
    models = [
        model("heavy", 10_400, pinned=True, replicas_min=2, places=first),
        model("light", 2_800, pinned=True, replicas_min=2, places=second),
    ]
    found = starts(actions(models, limits=Limits(loads_at_once=4)))
    assert sorted(found) == [("heavy", ("cuda:0",))] * 2 + [("light", ("cuda:1",))] * 2

"""What the nodes, the replicas and models.yaml say, as the planner is told it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from tasks.loader import cluster_facts
from tasks.records.nodes import DEAD_AFTER_S, Node, NodeFacts
from tasks.records.orders import Order
from tasks.records.replicas import ReplicaFacts
from workers.devices import Device, DeviceKind
from workers.estimate.measured import Measured
from workers.layout import Layout
from workers.placement.actions import Drain, Plan, Start, Wake
from workers.placement.facts import Facts, Model, Need, Place, Replica
from workers.placement.plan import plan
from workers.registry import ModelSpec
from workers.replicas import ReplicaState

CUDA, CPU = DeviceKind.CUDA, DeviceKind.CPU
STARTING = ReplicaState.STARTING


def node(id_: str, *devices: str, needs: Mapping[str, tuple[Need, ...]] | None = None) -> Node:
    found = tuple(
        Device(id=name, kind=DeviceKind(name.split(":")[0]), total_mib=48_000, free_mib=47_000) for name in devices
    )
    return Node(NodeFacts(id=id_, devices=found, needs=needs or {}), heartbeat_age_s=1.0)


SITE = [node("a", "cuda:0", "cuda:1"), node("b", "cuda:0"), node("c", "cpu")]


@pytest.mark.parametrize(
    ("devices", "places"),
    [
        ([], []),
        (["a/cuda:0"], [("a", "cuda:0")]),
        (["cuda:0"], [("a", "cuda:0"), ("b", "cuda:0")]),
        (["a/*", "c/cpu"], [("a", "cuda:0"), ("a", "cuda:1"), ("c", "cpu")]),
    ],
)
def test_a_model_is_told_its_places(devices: list[str], places: list[tuple[str, str]]) -> None:
    (model,) = cluster_facts.models([ModelSpec(id="m", devices=tuple(devices))], SITE)
    assert model.places == {Place(*place) for place in places}


def test_a_model_whose_devices_are_not_there_may_not_be_anywhere_else() -> None:
    (model,) = cluster_facts.models([ModelSpec(id="m", devices=("gone/cuda:0",))], SITE)
    assert model.places == {Place("gone", "cuda:0")}


def test_a_device_is_told_what_it_is_for() -> None:
    layout = Layout.of_entries({"cuda:0": {"slots": 2}, "a/cuda:0": {"exclusive": True, "bound_to": "heavy"}})
    told = {(it.node, it.id): it for it in cluster_facts.devices(SITE, layout, now=100.0)}
    first, second, other = told["a", "cuda:0"], told["a", "cuda:1"], told["b", "cuda:0"]
    assert (first.exclusive, first.bound_to, first.slots) == (True, "heavy", 2)
    assert (second.exclusive, second.bound_to, second.slots) == (False, None, None)
    assert (other.exclusive, other.bound_to, other.slots) == (False, None, 2)


def test_a_site_of_gpus_and_cpus_knows_the_ways_of_both_and_takes_gpus_first() -> None:
    gpu = node("a", "cuda:0", needs={"m": (Need(CUDA, 9_000), Need(CUDA, 6_000))})
    cpu = node("c", "cpu", needs={"m": (Need(CPU, 12_000), Need(CPU, 8_000))})
    (model,) = cluster_facts.models([ModelSpec(id="m")], [cpu, gpu])
    assert model.needs == (Need(CUDA, 9_000), Need(CUDA, 6_000), Need(CPU, 12_000), Need(CPU, 8_000))


def test_of_nodes_that_disagree_on_what_is_enough_the_most_careful_counts() -> None:
    small = node("a", "cuda:0", needs={"m": (Need(CUDA, 46_000), Need(CUDA, 18_000))})
    large = node("b", "cuda:0", needs={"m": (Need(CUDA, 60_000), Need(CUDA, 20_000))})
    (model,) = cluster_facts.models([ModelSpec(id="m")], [small, large])
    assert [need.mib for need in model.needs] == [60_000, 46_000, 20_000]


def told(device: str, **fields: Any) -> ReplicaFacts:
    given: dict[str, Any] = {
        "model": "m",
        "node": "a",
        "device": device,
        "pid": 1,
        "in_flight": 0,
        "seats": 4,
        "kv_usage": 0.0,
    }
    given |= {"memory_mib": 900, "started_at": 1.0, "last_used_at": None, "heartbeat_at": 1.0}
    return ReplicaFacts(id="r", state=ReplicaState.READY, **given | fields)


def test_what_a_worker_takes_of_the_machine_is_not_taken_for_what_it_takes_of_a_gpu() -> None:
    assert [it.used_mib for it in cluster_facts.replicas([told("cpu")], [], SITE, 9.0)] == [900]
    assert [it.used_mib for it in cluster_facts.replicas([told("cuda:0")], [], SITE, 9.0)] == [None]


def test_a_replica_that_can_sleep_says_what_it_keeps() -> None:
    (replica,) = cluster_facts.replicas([told("cuda:0", can_sleep=True, sleep_mib=700, sleep_ram_mib=9_000)], [], [], 9)
    assert (replica.can_sleep, replica.sleep_mib, replica.sleep_ram_mib) == (True, 700, 9_000)


@pytest.mark.parametrize("ahead_s", [0.0, 4_000.0, -4_000.0])
def test_the_times_of_a_worker_whose_clock_is_wrong_are_put_right(ahead_s: float) -> None:
    """Or its model would be unloaded at once, or never."""
    times = {"started_at": 100.0, "ready_at": 130.0, "slept_at": 180.0, "last_used_at": 150.0}
    said = told("cpu", clock_ahead_s=ahead_s, **{name: at + ahead_s for name, at in times.items()})
    (replica,) = cluster_facts.replicas([said], [], SITE, 200.0)
    assert {name: getattr(replica, name) for name in times} == times


def launching(*replicas: str, model: str = "m", age_s: float = 1.0) -> Node:
    facts = NodeFacts(id="a", launched=dict.fromkeys(replicas, model), needs={"m": (Need(CPU, 700),)}, devices=CPUS)
    return Node(facts, age_s)


CPUS = (Device(id="cpu", kind=CPU, total_mib=8_000, free_mib=7_000),)


def ordered(id_: str, told: ReplicaState = ReplicaState.STARTING, model: str = "m") -> Order:
    return Order(
        replica=id_, model=model, node="a", devices=("cpu",), mib=600, slot=0, ordered_at=1.0, told=told, told_at=2.0
    )


def planned(found: list[Replica], registry: list[str], nodes: list[Node], *, least: int = 0) -> Plan:
    """Return what a loader does whose models.yaml has the models of `registry`."""
    models = [Model(id=id_, needs=(Need(CPU, 700),), seats=1, replicas_min=least) for id_ in registry]
    models += cluster_facts.foreign(found, registry, nodes)
    devices, known = cluster_facts.devices(nodes, Layout(), 9.0), cluster_facts.known_nodes(nodes)
    return plan(Facts(models=models, replicas=found, devices=devices, nodes=known), 9.0)


def test_what_runs_though_nobody_has_ordered_it_is_seen() -> None:
    """Redis came back empty: its agent says what runs long before anybody is adopted."""
    nodes = [launching("r")]
    (found,) = cluster_facts.replicas([], [], nodes, now=9.0)
    assert (found.id, found.model, found.devices, found.mib, found.state) == ("r", "m", ("cpu",), 700, STARTING)
    assert planned([found], ["m"], nodes, least=1).actions == ()
    assert [type(action) for action in planned([], ["m"], nodes, least=1).actions] == [Start]


def test_who_was_launched_and_is_silent_counts_as_ordered_and_only_once() -> None:
    (silent,) = cluster_facts.replicas([], [ordered("r")], [launching("r")], now=9.0)
    assert (silent.id, silent.mib, silent.state, silent.told) == ("r", 600, STARTING, None)
    (spoken,) = cluster_facts.replicas([told("cpu")], [ordered("r")], [launching("r")], now=9.0)
    assert (spoken.id, spoken.state, spoken.slot) == ("r", ReplicaState.READY, 0)
    (leaving,) = cluster_facts.replicas([], [ordered("r", ReplicaState.DRAINING)], [launching("r")], now=9.0)
    assert (leaving.told, leaving.told_at) == (ReplicaState.DRAINING, 2.0)


def test_what_ends_holds_its_memory_until_its_agent_has_buried_it() -> None:
    """It has signed off, and its agent died before it said that it had launched it."""
    (leaving,) = cluster_facts.replicas([], [ordered("r", ReplicaState.DRAINING)], [launching()], now=9.0)
    assert (leaving.mib, leaving.heading) == (600, ReplicaState.DRAINING)
    assert cluster_facts.replicas([], [ordered("r", ReplicaState.DRAINING)], [launching(age_s=99)], now=9.0) == []


def test_nothing_is_believed_of_a_node_that_is_silent() -> None:
    silent = launching("r", age_s=DEAD_AFTER_S)
    assert cluster_facts.replicas([], [], [silent], now=9.0) == []
    assert cluster_facts.replicas([], [ordered("r")], [silent], now=9.0) == []


def test_what_only_the_models_file_of_its_node_has_is_left_to_the_loader_that_knows_it() -> None:
    nodes = [launching("r")]
    found = cluster_facts.replicas([told("cpu")], [ordered("r")], nodes, 9.0)
    decided = planned(found, ["other"], nodes)
    assert decided.actions == ()
    # To say that it cannot run would be a lie to those who wait for it elsewhere.
    assert "m" not in decided.explanations


@pytest.mark.parametrize("state", list(ReplicaState))
@pytest.mark.parametrize("order", [None, ReplicaState.DRAINING, ReplicaState.SLEEPING])
def test_whatever_it_does_nothing_is_started_for_it(state: ReplicaState, order: ReplicaState | None) -> None:
    nodes = [launching("r")]
    facts = [dataclasses.replace(told("cpu"), state=state)]
    found = cluster_facts.replicas(facts, [ordered("r", order)] if order else [], nodes, 9.0)
    assert not [it for it in planned(found, ["other"], nodes).actions if isinstance(it, Start | Wake)]


def test_what_no_models_file_has_any_more_goes() -> None:
    nodes = [launching("r", model="gone")]
    found = cluster_facts.replicas([told("cpu", model="gone")], [ordered("r", model="gone")], nodes, 9.0)
    assert cluster_facts.foreign(found, ["m"], nodes) == []
    assert [type(action) for action in planned(found, ["m"], nodes).actions] == [Drain]


def test_a_model_is_only_placed_on_nodes_that_have_it_where_they_differ() -> None:
    has, has_not = node("a", "cpu", needs={"m": (Need(CPU, 700),)}), node("b", "cpu", needs={"o": (Need(CPU, 700),)})
    (model,) = cluster_facts.models([ModelSpec(id="m")], [has, has_not])
    assert model.places == {Place("a", "cpu")}
    (model,) = cluster_facts.models([ModelSpec(id="m", devices=("b/cpu",))], [has, has_not])
    assert model.places == {Place("b", "cpu")}, "the operator's word counts, and says why it cannot run"
    for alike in ([has, node("b", "cpu", needs=has.facts.needs)], [node("a", "cpu"), node("b", "cpu")]):
        (model,) = cluster_facts.models([ModelSpec(id="m")], alike)
        assert model.places == frozenset()


@pytest.mark.parametrize(
    ("args", "kind", "seats"),
    [({}, CPU, 64), ({}, CUDA, 256), ({"max_num_seqs": 8}, CUDA, 8), ({"max-num-seqs": 8}, CPU, 8), ({}, None, 64)],
)
def test_slot_defaults_are_those_of_the_engine(args: dict[str, Any], kind: DeviceKind | None, seats: int) -> None:
    needs = {"m": (Need(kind, 9_000),)} if kind else {}
    site = [node("a", "cuda:0" if kind is CUDA else "cpu", needs=needs)]
    (model,) = cluster_facts.models([ModelSpec(id="m", engine_args=args)], site)
    assert model.seats == seats


def test_a_number_of_seats_that_is_none_does_not_stop_the_loader() -> None:
    (model,) = cluster_facts.models([ModelSpec(id="m", engine_args={"max_num_seqs": "many"})], SITE)
    assert model.seats == 64


def test_a_load_costs_what_it_took_on_the_kind_of_device_that_comes_first() -> None:
    site = [node("a", "cuda:0", needs={"m": (Need(CUDA, 9_000),)}), node("c", "cpu", needs={"m": (Need(CPU, 12_000),)})]
    seen = {kind: Measured(model="m", kind=kind, load_s=load_s) for kind, load_s in ((CUDA, 11.0), (CPU, 55.0))}
    (model,) = cluster_facts.models([ModelSpec(id="m")], site, {"m": seen})
    assert model.load_s == 11.0
    (unseen,) = cluster_facts.models([ModelSpec(id="m")], site)
    assert unseen.load_s == 30.0

"""What the nodes, the replicas and models.yaml say, as the planner is told it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tasks import cluster_facts
from tasks.nodes import Node, NodeFacts
from tasks.replicas import ReplicaFacts
from workers.devices import Device, DeviceKind
from workers.layout import Layout
from workers.placement.facts import Need, Place
from workers.registry import ModelSpec
from workers.replicas import ReplicaState

CUDA, CPU = DeviceKind.CUDA, DeviceKind.CPU


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

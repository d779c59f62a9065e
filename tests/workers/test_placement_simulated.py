"""The planner at work: a small cluster in virtual time carries its orders out, and they take their time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.site.cluster import EXIT_S, TICK_S, Cluster
from tests.site.machines import Card, Machine
from workers.devices import DeviceKind
from workers.placement.actions import Outlook
from workers.placement.facts import Model, Need, Place, Rollout
from workers.replicas import ReplicaState

LONGEST_REQUEST_S = 5.0


def model(id_: str, mib: int = 40_000, *, devices: int = 1, **fields: Any) -> Model:
    return Model(id=id_, needs=(Need(DeviceKind.CUDA, mib, devices),), **{"seats": 4, "load_s": 5.0, **fields})


def cluster(models: Sequence[Model], *, nodes: int = 1, cards: int = 1, mib: int = 48_000, **options: Any) -> Cluster:
    machines = [Machine(f"n{n}", ram_free_mib=200_000) for n in range(nodes)]
    devices = [Card(Place(machine.id, f"cuda:{n}"), DeviceKind.CUDA, mib) for machine in machines for n in range(cards)]
    return Cluster(models, machines, devices, **options)


def ask_all_the_time(
    site: Cluster, models: Sequence[str], *, until_s: float, rate: float, service_s: float = 2.0, seed: int = 0
) -> None:
    rng, at = random.Random(seed), 0.0
    while (at := at + rng.expovariate(rate)) < until_s:
        site.ask(rng.choice(models), at, rng.uniform(0.1, service_s))


def waits(site: Cluster) -> list[float]:
    assert all(request.taken_at is not None for request in site.finished)
    return [(request.taken_at or 0.0) - request.arrived_at for request in site.finished]


def fair_share_s(site: Cluster) -> float:
    """How long anybody may wait: the age limit, and then a turn of everybody who is before it."""
    limits, models = site.limits, site.models.values()
    load_s = max(m.load_s for m in models)
    turn_s = max(limits.turn_s, load_s) + LONGEST_REQUEST_S + EXIT_S + 3 * TICK_S + load_s
    return limits.age_limit_s + len(models) * turn_s


CLUSTERS = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.sampled_from((9_000, 20_000, 40_000)), min_size=2, max_size=5),
        "wide": st.booleans(),
        "cards": st.integers(1, 2),
        "nodes": st.integers(1, 2),
        "can_sleep": st.booleans(),
        "replicas_max": st.integers(1, 3),
        "rate": st.sampled_from((0.1, 0.3, 1.0)),
        "seed": st.integers(0, 10_000),
    }
)
FEW = settings(max_examples=12, deadline=None, derandomize=True)


def drawn(drawn: dict[str, Any], **fields: Any) -> Cluster:
    models = [
        model(f"m{n}", mib, seats=16, replicas_max=drawn["replicas_max"], load_s=1.0 + 3 * n, **fields)
        for n, mib in enumerate(drawn["sizes"])
    ]
    if drawn["wide"] and drawn["cards"] == 2:
        models.append(model("wide", 30_000, devices=2))
    return cluster(models, nodes=drawn["nodes"], cards=drawn["cards"], can_sleep=drawn["can_sleep"])


@given(CLUSTERS)
@FEW
def test_everybody_who_can_be_served_is_within_the_age_limit_and_a_turn_of_the_others(how: dict[str, Any]) -> None:
    site = drawn(how)
    ask_all_the_time(
        site, list(site.models), until_s=400, rate=how["rate"], service_s=LONGEST_REQUEST_S, seed=how["seed"]
    )
    site.run_until(1400)
    assert site.wrong == []
    assert len(site.finished) == site.asked
    assert max(waits(site)) < fair_share_s(site)


@given(CLUSTERS, st.integers(0, 10_000))
@FEW
def test_orders_that_get_lost_are_made_up_for(how: dict[str, Any], seed: int) -> None:
    site, rng = drawn(how), random.Random(seed)
    site.loses_order = lambda _: rng.random() < 0.3
    ask_all_the_time(site, list(site.models), until_s=200, rate=0.5, seed=how["seed"])
    site.run_until(2000)
    assert site.wrong == []
    assert len(site.finished) == site.asked


@given(CLUSTERS, st.integers(0, 10_000))
@FEW
def test_loads_that_fail_now_and_then_are_tried_again(how: dict[str, Any], seed: int) -> None:
    site, rng = drawn(how), random.Random(seed)
    site.fails_load = lambda _: rng.random() < 0.2
    ask_all_the_time(site, list(site.models), until_s=200, rate=0.5, seed=how["seed"])
    site.run_until(3000)
    assert site.wrong == []
    given_up = {name for name, failures in site.failures.items() if failures.given_up}
    left = sum(len(queue) for name, queue in site.queues.items() if name not in given_up)
    assert left == 0


@given(CLUSTERS, st.floats(20, 150))
@FEW
def test_what_a_dead_node_served_is_served_elsewhere(how: dict[str, Any], dies_at: float) -> None:
    site = drawn({**how, "nodes": 2})
    ask_all_the_time(site, list(site.models), until_s=200, rate=0.5, seed=how["seed"])
    site.at(dies_at, lambda: site.kill_node("n1"))
    site.run_until(1500)
    assert site.wrong == []
    assert len(site.finished) == site.asked


@given(CLUSTERS)
@FEW
def test_a_pinned_model_is_up_all_the_time(how: dict[str, Any]) -> None:
    site = drawn(how)
    site.models["m0"] = model("m0", 9_000, pinned=True)
    ask_all_the_time(site, list(site.models), until_s=300, rate=how["rate"], seed=how["seed"])
    site.run_until(60)
    for second in range(60, 300, 3):
        site.run_until(second)
        assert ReplicaState.READY in site.states("m0")
    assert site.wrong == []


def test_a_steady_load_settles_on_one_number_of_replicas() -> None:
    """Eight requests at a time and four seats a replica: two or three are needed, and no more comes and goes."""
    site = cluster([model("m", 9_000, replicas_max=8)], cards=2)
    ask_all_the_time(site, ["m"], until_s=1800, rate=5.0, service_s=3.0)
    site.run_until(300)
    settled = len(site.starts)
    site.run_until(1800)
    assert len(site.starts) - settled <= 2
    assert max(waits(site)[len(waits(site)) // 2 :]) < 5


@pytest.mark.parametrize("competitors", [3, 6])
def test_models_that_take_turns_on_one_device_do_not_thrash(competitors: int) -> None:
    """Each is asked for all the time and only one fits: every load is followed by a while of service."""
    names = [f"m{n}" for n in range(competitors)]
    site = cluster([model(name) for name in names])
    ask_all_the_time(site, names, until_s=1200, rate=2.0)
    site.run_until(1200)
    turn_s = site.limits.residency_loads * 5.0 + site.models["m0"].load_s
    assert len(site.starts) <= 1200 / turn_s + 1
    assert {name for _, name in site.starts} == set(names)


@pytest.mark.parametrize("load_s", [5.0, 60.0])
def test_with_more_work_than_seats_the_device_serves_and_does_not_only_load(load_s: float) -> None:
    """Both have waited beyond the age limit, all the time."""
    site = cluster([model("a", load_s=load_s), model("b", load_s=load_s)])
    ask_all_the_time(site, ["a", "b"], until_s=1800, rate=6.0, service_s=3.0)
    serving = 0
    for second in range(100, 1800):
        site.run_until(second)
        serving += ReplicaState.READY in (*site.states("a"), *site.states("b"))
    assert serving / 1700 > 0.4
    assert len(site.starts) > 1800 / 120 / 2
    assert site.wrong == []


def test_a_flood_on_a_cold_model_brings_two_and_silence_takes_them_away() -> None:
    site = cluster([model("m", 9_000, replicas_max=2, idle_ttl_s=60.0)], cards=2)
    for n in range(40):
        site.ask("m", 1.0 + n / 100, 3.0)
    site.run_until(30)
    assert site.states("m") == [ReplicaState.READY] * 2
    assert len(site.finished) == 40
    last = max(request.done_at or 0.0 for request in site.finished)
    site.run_until(last + 60 + 2 * TICK_S + EXIT_S)
    assert site.states("m") == []


def test_a_swap_takes_hardly_longer_than_its_load() -> None:
    site = cluster([model("a", load_s=1.0), model("b", load_s=1.0)])
    site.ask("a", 1.0, 0.1)
    site.ask("b", 20.0, 0.1)
    site.run_until(30)
    assert max(waits(site)) < 1.0 + EXIT_S + 0.3


def test_three_models_switch_on_two_devices_fifty_times_and_nobody_starves() -> None:
    names = ["a", "b", "c"]
    site = cluster([model(name, load_s=1.0) for name in names], cards=2)
    ask_all_the_time(site, names, until_s=400, rate=1.0)
    site.run_until(460)
    assert len(site.finished) == site.asked
    assert len(site.starts) >= 52
    assert max(waits(site)) < site.limits.age_limit_s


def test_what_can_sleep_is_woken_instead_of_loaded() -> None:
    site = cluster([model("a", load_s=20.0), model("b", load_s=20.0)], can_sleep=True)
    for n in range(10):
        site.ask("ab"[n % 2], 10.0 + 60 * n, 0.5)
    site.run_until(700)
    assert len(site.starts) == 2
    assert site.actions["Wake"] == 8
    assert site.wrong == []


def test_a_model_that_never_loads_is_given_up_and_the_rest_goes_on() -> None:
    site = cluster([model("broken"), model("m", 5_000)], cards=2)
    site.fails_load = lambda process: process.model.id == "broken"
    ask_all_the_time(site, ["broken", "m"], until_s=300, rate=0.5)
    site.run_until(600)
    assert len([name for _, name in site.starts if name == "broken"]) == site.limits.give_up_after
    assert site.last_plan.explanations["broken"].outlook is Outlook.FAILED
    assert not site.queues["m"]


def test_memory_that_a_foreign_process_grabs_is_not_fought_for() -> None:
    site = cluster([model("a"), model("b")])
    site.ask("a", 1.0, 0.5)
    site.run_until(60)
    (card,) = site.cards.values()
    card.foreign_mib = 8_000
    for second in range(60, 600, 5):
        site.ask("b", second, 0.5)
    site.run_until(600)
    assert len(site.starts) <= 3
    assert site.wrong == []


def test_an_alias_moves_without_a_moment_of_nobody_serving() -> None:
    builds = [model("old", 9_000), model("new", 9_000)]
    site = cluster(builds)
    site.ask("old", 1.0, 0.5)
    site.run_until(30)
    site.rollouts = (Rollout("heavy", desired="new", previous="old"),)
    for second in range(30, 200):
        site.run_until(second)
        assert ReplicaState.READY in (*site.states("old"), *site.states("new"))
    assert (site.states("old"), site.states("new")) == ([], [ReplicaState.READY])


def test_the_same_seed_gives_the_same_hour() -> None:
    def run() -> list[tuple[float, str]]:
        site = cluster([model(name) for name in "abc"], cards=2)
        ask_all_the_time(site, list("abc"), until_s=300, rate=1.0)
        site.run_until(400)
        return site.starts

    assert run() == run()

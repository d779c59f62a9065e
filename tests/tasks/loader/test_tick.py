"""What a tick orders, on a real Redis: once, whatever is lost, doubled or late."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from tasks import keys
from tasks.loader.leadership import Leadership
from tasks.records.demands import DemandStore
from tasks.records.load_failures import LoadFailureStore
from tasks.records.orders import START_WITHIN_S
from tasks.records.outlooks import OutlookStore
from tasks.records.wishes import Wish, WishStore
from tests.tasks.loader_site import LoaderSite
from workers.placement.actions import Outlook
from workers.replicas import ReplicaState

pytestmark = pytest.mark.integration

S = ReplicaState
MODELS = """
models:
  m: {engine: sim, idle_ttl_s: 60, sim: {memory_mib: 1000, load_s: 1}}
  other: {engine: sim, sim: {memory_mib: 3500}}
"""
LONG_AGO = time.time() - 10_000


@pytest.fixture
def site(client: redis.Redis, tmp_path: Path) -> LoaderSite:
    return LoaderSite(client, tmp_path, MODELS)


def outlook(site: LoaderSite, model: str = "m") -> Outlook | None:
    found = OutlookStore(site.client).of(model)
    return None if found is None else found.outlook


def test_nothing_is_ordered_while_nothing_is_asked_for(site: LoaderSite) -> None:
    site.machine()
    assert site.tick().led
    assert site.ordered() == []
    assert site.client.get(keys.LOADER_RAN)


def test_a_request_for_a_cold_model_has_it_ordered_and_the_node_look(site: LoaderSite) -> None:
    site.machine("n")
    site.ask()
    assert site.tick().led
    (order,) = site.ordered()
    assert (order.model, order.node, order.devices, order.mib, order.told) == ("m", "n", ("cpu",), 1000, S.STARTING)
    assert site.asked_to_look("n") == 1
    assert outlook(site) is Outlook.LOADING


def test_before_any_machine_has_spoken_nothing_is_ordered(site: LoaderSite) -> None:
    site.ask()
    site.tick()
    assert site.ordered() == []


@pytest.mark.parametrize("restarted", [False, True])
def test_however_often_it_looks_it_orders_once(site: LoaderSite, restarted: bool) -> None:
    machine = site.machine()
    site.ask()
    for act in (lambda: None, machine.turn, lambda: machine.launcher.one().speaks(site.client, S.STARTING), machine.up):
        act()
        for _ in range(2):
            if restarted:
                site.loader = LoaderSite(site.client, site.folder, MODELS).loader
            site.tick()
            assert len(site.ordered()) == 1
    assert machine.launcher.journal == [f"start {site.ordered()[0].replica}"]
    assert outlook(site) is Outlook.SERVING


def test_two_loaders_order_what_one_would(site: LoaderSite) -> None:
    machine = site.machine()
    site.ask()
    second = LoaderSite(site.client, site.folder, MODELS)
    for loader in (site, second, site, second):
        loader.tick()
        machine.turn()
    assert len(site.ordered()) == len(machine.launcher.running()) == 1


def test_a_loader_that_was_overtaken_changes_nothing(site: LoaderSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.machine()
    site.ask()
    for _ in range(5):
        LoadFailureStore(site.client).failed("other", node="n", reason="broken", permanent=True, now=LONG_AGO)

    class Slow(DemandStore):
        """What it reads takes so long that another loader has its turn meanwhile."""

        def waiting(self, models, now):  # type: ignore[no-untyped-def]  # as its base
            site.client.delete(keys.LOADER_LOCK)
            Leadership(site.client).led(lambda _: None)
            return super().waiting(models, now)

    site.loader._demands = Slow(site.client)
    assert not site.tick().led
    assert site.ordered() == []
    assert outlook(site) is None
    assert site.client.get(keys.LOADER_RAN) is None
    assert [it.given_up for it in LoadFailureStore(site.client).all()] == [False]


def test_an_idle_model_is_drained_after_its_time(site: LoaderSite) -> None:
    machine = site.machine()
    site.ask()
    site.tick()
    machine.turn()
    replica = machine.up()
    site.answered()
    site.tick()
    assert site.ordered(S.DRAINING) == [], "it was used just now"
    site.client.delete(keys.demand("m"))
    replica.started_at = LONG_AGO
    replica.speaks(site.client, ready_at=LONG_AGO, last_used_at=LONG_AGO)
    site.tick()
    (order,) = site.ordered(S.DRAINING)
    assert order.why == "unused for 60 s"
    machine.turn()
    site.tick()
    assert machine.launcher.journal[1:] == [f"terminate {replica.name}"]
    replica.leaves(site.client)
    machine.turn()
    site.tick()
    assert site.ordered() == []
    assert machine.launcher.replicas == {}


def test_an_order_that_nobody_follows_becomes_void_and_its_room_is_free_again(site: LoaderSite) -> None:
    site.machine(memory_mib=4000)
    site.ask("other")
    site.tick()
    (order,) = site.ordered()
    site.answered("other")
    site.ask("m")
    site.tick()
    assert site.ordered() == [order], "there is no room for both"
    site.late(order, by_s=START_WITHIN_S + 1)
    site.tick()
    assert [it.model for it in site.ordered()] == ["m"]


def test_an_order_whose_replica_was_launched_never_becomes_void(site: LoaderSite) -> None:
    machine = site.machine()
    site.ask()
    site.tick()
    machine.turn()
    site.late(site.ordered()[0], by_s=START_WITHIN_S + 1)
    site.tick()
    machine.turn()
    assert len(site.ordered()) == len(machine.launcher.running()) == 1


def test_what_redis_has_forgotten_is_not_loaded_again(site: LoaderSite) -> None:
    machine = site.machine()
    site.ask()
    site.tick()
    machine.turn()
    machine.up()
    site.client.flushall()
    site.ask()
    site.tick()
    assert site.ordered() == [], "no machine has spoken yet"
    machine.restart_agent()
    machine.turn()
    site.tick()
    machine.launcher.one().speaks(site.client)
    machine.turn()
    site.tick()
    (order,) = site.ordered()
    assert order.why == "it ran already"
    assert len(machine.launcher.journal) == 1


def test_a_silent_replica_that_redis_has_forgotten_counts_until_it_speaks(site: LoaderSite) -> None:
    machine = site.machine()
    site.ask()
    site.tick()
    machine.turn()
    site.client.flushall()
    machine.agent._machine.changed()  # its next heartbeat
    machine.turn()
    site.ask()
    site.tick()
    assert site.ordered() == []
    assert outlook(site) is Outlook.LOADING


def test_an_operator_loads_and_unloads(site: LoaderSite) -> None:
    machine, wishes = site.machine(), WishStore(site.client)
    wishes.wish("m", Wish.LOAD)
    site.tick()
    assert site.ordered()[0].why == "loaded by an operator"
    machine.turn()
    assert wishes.of(["m"]), "it has not come true yet"
    machine.up()
    site.tick()
    assert wishes.of(["m"]) == {}
    wishes.wish("m", Wish.UNLOAD)
    site.tick()
    assert [it.why for it in site.ordered(S.DRAINING)] == ["unloaded by an operator"]


def test_what_an_operator_unloaded_comes_back_with_the_next_request(site: LoaderSite) -> None:
    machine, wishes = site.machine(), WishStore(site.client)
    wishes.wish("m", Wish.UNLOAD)
    site.tick()
    site.ask()
    site.tick()
    machine.turn()
    assert machine.launcher.one()
    assert wishes.of(["m"]) == {}


def test_a_load_by_hand_is_tried_though_the_model_was_given_up(site: LoaderSite) -> None:
    site.machine()
    failures = LoadFailureStore(site.client)
    failures.failed("m", node="n", reason="its weights are broken", permanent=True, now=LONG_AGO)
    site.ask()
    site.tick()
    assert [it.given_up for it in failures.all()] == [True]
    assert outlook(site) is Outlook.FAILED
    assert site.ordered() == []
    failures.forget("m")  # as `celerity load` does
    site.tick()
    assert len(site.ordered()) == 1


def test_with_the_kill_switch_on_only_what_was_wished_for_is_done(site: LoaderSite) -> None:
    machine, wishes = site.machine(), WishStore(site.client)
    wishes.switch(automatic=False)
    site.ask()
    site.tick()
    assert site.ordered() == []
    assert outlook(site) is Outlook.SWITCHED_OFF
    wishes.wish("m", Wish.LOAD)
    site.tick()
    machine.turn()
    machine.up()
    machine.launcher.one().speaks(site.client, ready_at=LONG_AGO, last_used_at=LONG_AGO, started_at=LONG_AGO)
    site.answered()
    site.client.delete(keys.demand("m"))
    site.tick()
    assert site.ordered(S.DRAINING) == []
    wishes.switch(automatic=True)
    site.tick()
    assert len(site.ordered(S.DRAINING)) == 1


def test_it_says_when_it_is_worth_looking_again(site: LoaderSite) -> None:
    site.machine()
    LoadFailureStore(site.client).failed("m", node="n", reason="hiccup", permanent=False, now=time.time())
    site.ask()
    turn = site.tick()
    assert outlook(site) is Outlook.BACKING_OFF
    assert turn.again_in_s is not None
    assert 0 < turn.again_in_s <= 5


def test_loaders_with_different_models_files_leave_each_other_alone(site: LoaderSite) -> None:
    theirs = LoaderSite(site.client, site.folder, MODELS)
    theirs.models("models: {far: {engine: sim, pinned: true, sim: {memory_mib: 1000}}}", "theirs.yaml")
    here, there = site.machine("here", memory_mib=8000), theirs.machine("there", models="theirs.yaml", memory_mib=8000)
    site.ask("m")
    for _ in range(2):
        site.tick()
        theirs.tick()
        here.turn()
        there.turn()
    assert not here.launcher.running("far")
    assert not there.launcher.running("m")
    here.up("m")
    there.up("far")
    for _ in range(2):
        site.tick()
        theirs.tick()
        here.turn()
        there.turn()
    assert [order.told for order in site.ordered()] == [S.STARTING, S.STARTING]
    assert len(here.launcher.journal) == len(there.launcher.journal) == 1
    assert outlook(site, "far") is not Outlook.CANNOT_RUN
    assert LoadFailureStore(site.client).all() == []

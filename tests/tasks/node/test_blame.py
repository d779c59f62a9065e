"""Who is to blame for what failed: the model, the machine, or nobody; and how long that is remembered."""

from __future__ import annotations

import dataclasses

import pytest

from tasks import keys
from tasks.records.load_failures import LoadFailureStore
from tasks.records.orders import Order
from tests.tasks.loader_site import LoaderSite, Machine
from tests.tasks.node.conftest import MODELS
from tests.tasks.node.doings import facts, facts_time, failures, load
from workers.launcher.errors import RefusedError

pytestmark = pytest.mark.integration


def test_a_load_that_fails_counts_for_the_model_and_not_for_the_machine(site: LoaderSite, machine: Machine) -> None:
    for count in range(1, 4):
        replica = load(site, machine)
        replica.last_words = ["safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"]
        replica.code = 1
        machine.turn()
        (failed,) = failures(site)
        assert (failed.count, failed.permanent, failed.nodes) == (count, True, frozenset("n"))
        assert failed.reason == "its weights are missing or broken"
        # So that the next try is due at once.
        LoadFailureStore(site.client)._write(dataclasses.replace(failed, last_at=0.0, permanent=False))
    assert facts(site).reliability.failures == 0
    assert machine.launcher.replicas == {}
    assert site.ordered() == []


def test_where_others_have_loaded_it_the_machine_is_to_blame(site: LoaderSite, machine: Machine) -> None:
    load(site, machine)
    machine.up()
    other = site.machine("other", memory_mib=8000)
    site.orders.adopt(
        Order(replica="m-2", model="m", node="other", devices=("cpu",), mib=1000, slot=1, ordered_at=facts_time(site))
    )
    other.turn()
    other.launcher.one().code = 1
    other.turn()
    assert facts(site, "other").reliability.failures == 1
    assert facts(site).reliability.failures == 0


def test_a_further_load_that_fails_beside_one_that_went_well_is_not_the_machines_doing(
    site: LoaderSite, machine: Machine
) -> None:
    load(site, machine)
    machine.up()
    site.orders.adopt(
        Order(replica="m-2", model="m", node="n", devices=("cpu",), mib=1000, slot=1, ordered_at=facts_time(site))
    )
    machine.turn()
    machine.launcher.replicas["m-2"].code = 1
    machine.turn()
    assert len(failures(site)) == 1
    assert facts(site).reliability.failures == 0


def test_a_replica_that_dies_after_it_served_counts_for_the_machine(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    replica.code, replica.reason = -9, "it took 9,000 MiB of memory and was allowed 3,024"
    machine.turn()
    (failed,) = failures(site)
    assert failed.reason == replica.reason
    reliability = facts(site).reliability
    assert (round(reliability.successes), round(reliability.failures)) == (1, 1)
    assert site.ordered() == []
    assert not site.client.exists(keys.replica(replica.name))


def test_nobody_is_blamed_for_what_ended_together_with_its_agent(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    replica.code = -9
    machine.restart_agent()
    machine.turn()
    assert failures(site) == []
    assert facts(site).reliability.failures == 0
    assert (machine.launcher.replicas, site.ordered()) == ({}, [])
    assert load(site, machine).name != replica.name, "it is loaded again at once"


def test_a_new_agent_counts_what_ends_once_it_has_seen_it(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.restart_agent()
    machine.turn()
    replica.code = 1
    machine.turn()
    assert len(failures(site)) == 1


def test_a_success_wipes_failures_out(site: LoaderSite, machine: Machine) -> None:
    load(site, machine).code = 1
    machine.turn()
    assert len(failures(site)) == 1
    LoadFailureStore(site.client)._write(dataclasses.replace(failures(site)[0], last_at=0.0))
    load(site, machine)
    machine.up()
    assert failures(site) == []


def test_a_machine_that_cannot_start_a_process_says_so(site: LoaderSite, machine: Machine) -> None:
    machine.launcher.refuses = RefusedError("no process can be started: too many files")
    site.ask()
    site.tick()
    machine.turn()
    (failed,) = failures(site)
    assert failed.reason == "its worker could not be started (launch_refused)"
    assert facts(site).reliability.failures == 1
    assert site.ordered() == []


def test_what_a_machine_is_worth_survives_its_agent(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    replica.code = -9
    machine.turn()
    before = facts(site)
    machine.restart_agent()
    machine.turn()
    after = facts(site)
    assert (after.reliability.successes, after.reliability.failures) == pytest.approx((1, 1), abs=0.01)
    assert after.loads == before.loads


def test_a_success_is_counted_once_however_often_the_agent_is_restarted(site: LoaderSite, machine: Machine) -> None:
    load(site, machine)
    machine.up()
    for _ in range(3):
        machine.restart_agent()
        machine.turn()
    assert facts(site).reliability.successes == pytest.approx(1, abs=0.01)


def test_a_new_entry_gives_a_model_that_was_given_up_another_chance(site: LoaderSite, machine: Machine) -> None:
    LoadFailureStore(site.client).failed("m", node="n", reason="broken", permanent=True, now=1.0)
    site.models(MODELS.replace("1000", "1200"))
    machine.agent._registry._looked_at = None  # two seconds later
    machine.turn()
    assert failures(site) == []
    assert facts(site).needs["m"][0].mib == 1200

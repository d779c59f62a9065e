"""The agent of a machine: what it starts, ends, buries and adopts, and what it says of the machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.node.agenda import SPEAKS_WITHIN_S
from tasks.records.moves import Move
from tasks.records.orders import START_WITHIN_S, Order
from tests.tasks.loader_site import LoaderSite, Machine
from tests.tasks.node.doings import facts, facts_time, failures, load, moves, tell
from workers.replicas import ReplicaState

pytestmark = pytest.mark.integration

S = ReplicaState


def test_what_is_ordered_is_launched_once_with_what_it_may_take(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.turn()
    assert machine.launcher.journal == [f"start {replica.name}"]
    env = replica.command.env
    assert (env["CELERITY_MODEL"], env["CELERITY_DEVICE"], env["CELERITY_RESERVED_MIB"]) == ("m", "cpu", "1000")
    assert [device.id for device in replica.resources.devices] == ["cpu"]
    assert facts(site).launched == {replica.name: "m"}
    assert len(facts(site).loads) == 1


def test_an_order_for_another_machine_is_not_its_business(site: LoaderSite, machine: Machine) -> None:
    other = site.machine("other")
    load(site, machine)
    other.turn()
    assert other.launcher.journal == []


def test_a_late_order_is_struck_out(site: LoaderSite, machine: Machine) -> None:
    site.ask()
    site.tick()
    site.late(site.ordered()[0], by_s=START_WITHIN_S + 1)
    machine.turn()
    assert machine.launcher.journal == []
    assert site.ordered() == []


def test_what_has_ended_as_it_was_told_is_buried_without_blame(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    tell(site, replica, S.DRAINING)
    machine.turn()
    machine.turn()
    assert machine.launcher.journal[1:] == [f"terminate {replica.name}"]
    replica.leaves(site.client)
    machine.turn()
    assert machine.launcher.replicas == {}
    assert site.ordered() == []
    assert facts(site).launched == {}
    assert failures(site) == []


def test_a_model_that_its_file_lacks_is_refused_in_words(site: LoaderSite) -> None:
    site.models("models: {}", "empty.yaml")
    site.machine("n", models="empty.yaml")
    order = Order(replica="m-1", model="m", node="n", devices=("cpu",), mib=1, slot=0, ordered_at=facts_time(site))
    site.orders.adopt(order)
    machine = site.machine("n", models="empty.yaml")
    assert machine.launcher.journal == []
    assert failures(site)[0].reason == "the models.yaml of its machine does not have it"
    assert site.ordered() == []


@pytest.mark.parametrize("spoken", [None, S.STARTING, S.READY])
def test_a_new_agent_goes_on_where_the_one_before_was(
    site: LoaderSite, machine: Machine, spoken: ReplicaState | None
) -> None:
    replica = load(site, machine)
    if spoken:
        replica.speaks(site.client, spoken)
    orders = site.ordered()
    machine.restart_agent()
    machine.turn()
    site.tick()
    machine.turn()
    assert site.ordered() == orders
    assert machine.launcher.journal == [f"start {replica.name}"]
    assert facts(site).launched == {replica.name: "m"}


def test_one_that_was_being_ended_is_asked_again_by_a_new_agent(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    tell(site, replica, S.DRAINING)
    machine.turn()
    machine.restart_agent()
    machine.turn()
    machine.turn()
    assert machine.launcher.journal[1:] == [f"terminate {replica.name}"] * 2


def test_one_that_does_not_end_is_killed(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    order = tell(site, replica, S.STOPPED)
    machine.turn()
    site.late(order, by_s=60)
    machine.turn()
    machine.turn()
    assert machine.launcher.journal[1:] == [f"terminate {replica.name}", f"kill {replica.name}"]
    assert machine.launcher.replicas == {}
    assert failures(site) == []


def test_what_runs_is_adopted_when_redis_has_lost_everything(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    (ordered,) = site.ordered()
    site.client.flushall()
    replica.speaks(site.client)
    machine.turn()
    (order,) = site.ordered()
    assert (order.replica, order.devices, order.mib, order.node) == (replica.name, ("cpu",), 1000, "n")
    assert order.why == "it ran already"
    assert order.slot == ordered.slot
    machine.turn()
    assert site.ordered() == [order]


def test_a_silent_one_is_adopted_with_what_it_would_have_been_ordered(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    site.client.flushall()
    machine.turn()
    assert site.ordered() == []
    replica.started_at -= SPEAKS_WITHIN_S + 1
    machine.turn()
    (order,) = site.ordered()
    assert (order.replica, order.devices, order.mib) == (replica.name, ("cpu",), 1000)


def test_adopted_replicas_have_slots_of_their_own(site: LoaderSite, machine: Machine) -> None:
    for slot in range(3):
        order = Order(
            replica=f"m-{slot}", model="m", node="n", devices=("cpu",), mib=1, slot=slot, ordered_at=facts_time(site)
        )
        site.orders.adopt(order)
    machine.turn()
    site.client.flushall()
    for replica in machine.launcher.running():
        replica.speaks(site.client)
    machine.turn()
    assert sorted(order.slot for order in site.ordered()) == [0, 1, 2]


@pytest.mark.parametrize(("told", "state"), [(S.SLEEPING, S.READY), (S.READY, S.SLEEPING)])
def test_to_sleep_or_to_wake_it_is_told_once_for_each_order(
    site: LoaderSite, machine: Machine, told: ReplicaState, state: ReplicaState
) -> None:
    replica = load(site, machine)
    machine.up(state=state)
    first = tell(site, replica, told)
    for _ in range(3):
        machine.turn()
    assert moves(site, replica) == [Move(told, first.told_at)]
    second = tell(site, replica, told, at=first.told_at + 15)
    machine.turn()
    assert moves(site, replica) == [Move(told, first.told_at), Move(told, second.told_at)]
    replica.speaks(site.client, told)
    machine.turn()
    assert len(moves(site, replica)) == 2
    assert machine.launcher.journal == [f"start {replica.name}"]


@pytest.mark.parametrize(
    "happens",
    [
        lambda machine: machine.up(),
        lambda machine: setattr(machine.launcher.one(), "code", 1),
    ],
)
def test_the_loader_looks_at_once_when_something_has_happened(
    site: LoaderSite, machine: Machine, happens: Callable[[Machine], object]
) -> None:
    load(site, machine)
    site.client.delete("loader")
    machine.turn()
    assert site.client.llen("loader") == 0, "nothing has happened"
    happens(machine)
    machine.turn()
    assert site.client.llen("loader") == 1


def test_the_machine_is_searched_for_orphans_no_more_often_than_it_speaks(site: LoaderSite, machine: Machine) -> None:
    machine.turn()
    for _ in range(5):
        machine.turn()
    assert machine.launcher.tended == 1
    machine.agent._machine.changed()
    machine.turn()
    assert machine.launcher.tended == 2


def test_an_agent_asks_nothing_while_all_is_as_ordered(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    machine.turn()
    assert machine.agent._memory.settled
    before = _commands(site)
    assert not machine.agent._differs()
    assert _commands(site) == before + 1, "but for the count itself"
    replica.kill()
    assert machine.agent._differs()


def test_an_agent_goes_on_asking_while_anything_is_under_way(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.turn()
    assert not machine.agent._memory.settled, "it loads"
    machine.up()
    machine.turn()
    tell(site, replica, S.DRAINING)
    machine.turn()
    assert not machine.agent._memory.settled, "it ends"


def _commands(site: LoaderSite) -> int:
    return int(site.client.info("stats")["total_commands_processed"])

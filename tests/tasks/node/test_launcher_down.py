"""An agent whose launcher does not answer, or refuses."""

from __future__ import annotations

import pytest

from tasks import keys
from tasks.records.nodes import NodeStore
from tasks.records.orders import Order
from tests.tasks.loader_site import LoaderSite, Machine
from tests.tasks.node.doings import facts, facts_time, failures, load, tell
from workers.launcher.errors import RefusedError
from workers.replicas import ReplicaState

pytestmark = pytest.mark.integration

S = ReplicaState


def test_without_its_launcher_a_machine_goes_on_speaking_and_says_why(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    machine.launcher.down = True
    machine.turn()
    told = facts(site)
    assert told.problem == "it does not answer; start it"
    assert told.launched == {replica.name: "m"}
    assert told.devices
    assert not NodeStore(site.client).all()[0].able
    machine.agent._machine.changed()  # the next heartbeat is due
    site.client.delete(keys.NODES)
    machine.turn()
    assert [node.healthy for node in NodeStore(site.client).all()] == [True]
    site.tick()
    assert site.ordered() != [], "what runs there is not given up"
    machine.launcher.down = False
    machine.turn()
    assert facts(site).problem == ""
    assert NodeStore(site.client).all()[0].able
    assert failures(site) == []


def test_what_was_to_end_while_the_launcher_was_down_is_asked_when_it_is_back(
    site: LoaderSite, machine: Machine
) -> None:
    replica = load(site, machine)
    machine.up()
    tell(site, replica, S.DRAINING)
    machine.launcher.down = True
    machine.turn()
    machine.launcher.down = False
    machine.turn()
    assert machine.launcher.journal[1:] == [f"terminate {replica.name}"]


def test_an_order_that_finds_the_launcher_down_stands_until_it_is_void(site: LoaderSite, machine: Machine) -> None:
    site.ask()
    site.tick()
    machine.launcher.down = True
    machine.turn()
    assert len(site.ordered()) == 1
    assert failures(site) == []
    machine.launcher.down = False
    machine.turn()
    assert len(machine.launcher.running()) == 1


def test_what_is_refused_to_one_replica_does_not_keep_the_others(site: LoaderSite, machine: Machine) -> None:
    replica = load(site, machine)
    machine.up()
    tell(site, replica, S.DRAINING)

    def refuse() -> None:
        raise RefusedError("cannot be asked")

    replica.terminate = refuse  # type: ignore[method-assign]  # a replica of our own
    other = Order(replica="m-2", model="m", node="n", devices=("cpu",), mib=9, slot=1, ordered_at=facts_time(site))
    site.orders.adopt(other)
    machine.turn()
    assert {it.name for it in machine.launcher.running()} == {replica.name, "m-2"}
    assert facts(site).problem == ""


def test_a_refusal_is_said_once_as_long_as_it_goes_on(
    site: LoaderSite, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    replica = load(site, machine)
    machine.up()
    tell(site, replica, S.DRAINING)
    said = []
    for refused in (True, True, False, True):

        def answer(refused: bool = refused) -> None:
            if refused:
                raise RefusedError("cannot be asked")

        replica.terminate = answer  # type: ignore[method-assign]  # a replica of our own
        machine.agent._memory.asked.clear()
        machine.turn()
        said.append(caplog.text.count("refused: cannot be asked"))
    assert said == [1, 1, 1, 2]


def test_a_launcher_that_refuses_to_say_what_runs_is_as_good_as_down(site: LoaderSite, machine: Machine) -> None:
    def refuse() -> None:
        raise RefusedError("Docker cannot list containers: no")

    machine.launcher.asked = refuse  # type: ignore[method-assign]  # a launcher of our own
    machine.turn()
    assert facts(site).problem == "Docker cannot list containers: no"

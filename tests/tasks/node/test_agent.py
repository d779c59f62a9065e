"""The agent of a machine: what it starts, ends, buries and adopts, and what it says of the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tasks import keys
from tasks.node.agenda import SPEAKS_WITHIN_S
from tasks.records.load_failures import LoadFailureStore
from tasks.records.moves import Move
from tasks.records.nodes import NodeFacts, NodeStore
from tasks.records.orders import START_WITHIN_S, Order
from tests.tasks.fake_launcher import FakeReplica
from tests.tasks.loader_site import LoaderSite, Machine
from workers.launcher.errors import RefusedError
from workers.placement.facts import LoadFailures
from workers.replicas import ReplicaState

pytestmark = pytest.mark.integration

S = ReplicaState
MODELS = """
models:
  m: {engine: sim, replicas: {max: 3}, sim: {memory_mib: 1000, sleep_mib: 0}}
"""


@pytest.fixture
def site(client: redis.Redis, tmp_path: Path) -> LoaderSite:
    return LoaderSite(client, tmp_path, MODELS)


@pytest.fixture
def machine(site: LoaderSite) -> Machine:
    return site.machine()


def load(site: LoaderSite, machine: Machine) -> FakeReplica:
    """Have a replica of `m` ordered and launched."""
    site.ask()
    site.tick()
    machine.turn()
    site.answered()
    return machine.launcher.running()[-1]


def tell(site: LoaderSite, replica: FakeReplica, told: ReplicaState, *, at: float | None = None) -> Order:
    """Order it to do something else, as the loader does."""
    order = next(it for it in site.orders.all() if it.replica == replica.name)
    changed = dataclasses.replace(order, told=told, told_at=order.ordered_at + 1 if at is None else at)
    assert site.orders.write([changed], epoch=int(site.client.get(keys.LOADER_EPOCH) or 0))
    return changed


def facts(site: LoaderSite, node: str = "n") -> NodeFacts:
    return NodeStore(site.client).of(node)


def failures(site: LoaderSite) -> list[LoadFailures]:
    return LoadFailureStore(site.client).all()


def moves(site: LoaderSite, replica: FakeReplica) -> list[Move]:
    records = site.client.xrange(keys.control(replica.name))
    return [move for _, fields in records if (move := Move.decode(fields))]  # type: ignore[union-attr,arg-type]


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


def facts_time(site: LoaderSite) -> float:
    seconds, _ = site.client.time()
    return float(seconds)


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


def test_a_new_entry_gives_a_model_that_was_given_up_another_chance(site: LoaderSite, machine: Machine) -> None:
    LoadFailureStore(site.client).failed("m", node="n", reason="broken", permanent=True, now=1.0)
    site.models(MODELS.replace("1000", "1200"))
    machine.agent._registry._looked_at = None  # two seconds later
    machine.turn()
    assert failures(site) == []
    assert facts(site).needs["m"][0].mib == 1200

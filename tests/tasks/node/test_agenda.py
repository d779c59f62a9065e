"""What a node agent has to do, rule by rule, and that doing it leaves nothing to be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.node.agenda import (
    AFTER_DRAIN_S,
    SPEAKS_WITHIN_S,
    Adopt,
    Asked,
    Bury,
    Kill,
    Launch,
    Running,
    Step,
    Tell,
    Terminate,
    Void,
    agenda,
    settled,
)
from tasks.records.orders import START_WITHIN_S, Order
from workers.replicas import ReplicaState

S = ReplicaState
NOW = 1000.0
DRAIN_S = 20.0


def order(replica: str = "m-1", told: S = S.STARTING, *, age_s: float = 1.0) -> Order:
    at = NOW - age_s
    return Order(
        replica=replica, model="m", node="n", devices=("cpu",), mib=1, slot=0, ordered_at=at, told=told, told_at=at
    )


def runs(replica: str = "m-1", state: S | None = S.READY, *, ended: bool = False, age_s: float = 5.0) -> Running:
    return Running(replica=replica, model="m", started_at=NOW - age_s, ended=ended, state=state)


def due(orders: Sequence[Order] = (), running: Sequence[Running] = (), asked: Sequence[Asked] = ()) -> list[Step]:
    return list(agenda(orders, running, asked, NOW, drain_s=DRAIN_S))


def test_what_runs_as_ordered_is_left_alone() -> None:
    assert due([order()], [runs(state=None)]) == []
    assert due([order()], [runs(state=S.STARTING)]) == []
    assert due([order()], [runs()]) == []


@pytest.mark.parametrize("state", [S.READY, S.SLEEPING])
def test_what_runs_as_ordered_is_settled(state: S) -> None:
    assert settled([], [])
    assert settled([order()], [runs(state=state)])
    assert settled([order(told=state)], [runs(state=state)])


@pytest.mark.parametrize(
    ("orders", "running"),
    [
        ([order()], []),
        ([], [runs()]),
        ([order()], [runs(state=None)]),
        ([order()], [runs(state=S.STARTING)]),
        ([order()], [runs(ended=True)]),
        ([order(told=S.SLEEPING)], [runs(state=S.READY)]),
        ([order(told=S.DRAINING)], [runs(state=S.READY)]),
        ([order(told=S.DRAINING)], [runs(state=S.DRAINING)]),
        ([order(), order("m-2")], [runs()]),
    ],
)
def test_what_is_under_way_is_not(orders: list[Order], running: list[Running]) -> None:
    assert not settled(orders, running)


@pytest.mark.parametrize(
    ("orders", "asked", "told_to_end"),
    [
        ([order()], [], False),
        ([order(told=S.SLEEPING)], [("m-1", NOW)], False),
        ([order(told=S.DRAINING)], [], True),
        ([order(told=S.STOPPED)], [], True),
        ([order()], [("m-1", None)], True),
    ],
)
def test_what_has_ended_is_buried(orders: list[Order], asked: list[Asked], told_to_end: bool) -> None:
    assert due(orders, [runs(ended=True)], asked) == [Bury("m-1", "m", asked=told_to_end)]


def test_an_end_without_an_order_is_nobodys_fault_since_an_agent_died_while_it_buried_it() -> None:
    assert due([], [runs(ended=True)]) == [Bury("m-1", "m", asked=True)]


def test_what_runs_without_an_order_is_adopted_once_it_has_said_where_it_is() -> None:
    assert due([], [runs(state=None, age_s=SPEAKS_WITHIN_S)]) == []
    assert due([], [spoken := runs(state=S.STARTING)]) == [Adopt(spoken)]
    assert due([], [silent := runs(state=None, age_s=SPEAKS_WITHIN_S + 1)]) == [Adopt(silent)]


@pytest.mark.parametrize("told", [S.DRAINING, S.STOPPED])
def test_what_is_to_end_is_asked_once_and_killed_when_it_takes_too_long(told: S) -> None:
    assert due([order(told=told)], [runs()]) == [Terminate("m-1")]
    assert due([order(told=told)], [runs()], [("m-1", None)]) == []
    late = order(told=told, age_s=DRAIN_S + AFTER_DRAIN_S + 1)
    assert due([late], [runs(state=S.DRAINING)], [("m-1", None)]) == [Kill("m-1")]


def test_what_is_to_end_and_loads_still_is_asked_too() -> None:
    assert due([order(told=S.DRAINING)], [runs(state=None)]) == [Terminate("m-1")]


@pytest.mark.parametrize(("told", "state"), [(S.SLEEPING, S.READY), (S.READY, S.SLEEPING)])
def test_what_is_to_sleep_or_to_wake_is_told_once_for_each_order(told: S, state: S) -> None:
    it = order(told=told)
    assert due([it], [runs(state=state)]) == [Tell(it)]
    assert due([it], [runs(state=state)], [("m-1", it.told_at)]) == []
    again = dataclasses.replace(it, told_at=NOW)
    assert due([again], [runs(state=state)], [("m-1", it.told_at)]) == [Tell(again)]


@pytest.mark.parametrize("told", [S.SLEEPING, S.READY])
def test_nobody_is_told_what_it_does_already_or_before_it_listens(told: S) -> None:
    assert due([order(told=told)], [runs(state=told)]) == []
    assert due([order(told=told)], [runs(state=None)]) == []


def test_what_is_to_start_is_launched_unless_the_order_is_void_or_nearly_so() -> None:
    assert due([fresh := order(age_s=START_WITHIN_S - 6)]) == [Launch(fresh)]
    assert due([order(age_s=START_WITHIN_S - 4)]) == [], "its memory may be given away before it says that it runs"
    assert due([late := order(age_s=START_WITHIN_S)]) == [Void(late)]


@pytest.mark.parametrize("told", [S.DRAINING, S.STOPPED, S.SLEEPING, S.READY])
def test_an_order_to_do_something_else_without_a_replica_is_void(told: S) -> None:
    assert due([it := order(told=told)]) == [Void(it)]


def test_replicas_do_not_stand_in_for_one_another() -> None:
    steps = due([order("m-1"), order("m-2")], [runs("m-2"), runs("m-3")])
    assert steps == [Adopt(runs("m-3")), Launch(order("m-1"))]


class Machine:
    """A node that does what it is told, as the agent's shell has it done."""

    def __init__(self, orders: Sequence[Order], running: Sequence[Running]) -> None:
        self.orders = {it.replica: it for it in orders}
        self.running = {it.replica: it for it in running}
        self.asked: set[Asked] = set()

    def due(self) -> list[Step]:
        return due(list(self.orders.values()), list(self.running.values()), list(self.asked))

    def do(self, step: Step) -> None:
        match step:
            case Launch(it):
                self.running[it.replica] = runs(it.replica, None, age_s=0)
            case Terminate(replica):
                self.asked.add((replica, None))
            case Kill(replica):
                self.running[replica] = dataclasses.replace(self.running[replica], ended=True)
            case Tell(it):
                self.asked.add((it.replica, it.told_at))
            case Bury(replica):
                del self.running[replica]
                self.orders.pop(replica, None)
            case Adopt(it):
                self.orders[it.replica] = order(it.replica, age_s=0)
            case Void(it):
                del self.orders[it.replica]


_ORDERS = st.builds(order, st.sampled_from("abc"), st.sampled_from(S), age_s=st.sampled_from([0.0, 20.0, 27.0, 90.0]))
_RUNS = st.builds(
    runs,
    st.sampled_from("abcd"),
    st.sampled_from([None, S.STARTING, S.READY, S.SLEEPING, S.DRAINING]),
    ended=st.booleans(),
    age_s=st.sampled_from([0.0, 90.0]),
)
_by_replica: Any = lambda it: it.replica  # noqa: E731 - hypothesis takes a function


@given(st.lists(_ORDERS, unique_by=_by_replica), st.lists(_RUNS, unique_by=_by_replica))
def test_what_is_done_needs_not_be_done_again(orders: list[Order], running: list[Running]) -> None:
    """One round does all but bury whom it killed; whatever is left is at rest."""
    machine = Machine(orders, running)
    for step in machine.due():
        machine.do(step)
    second = machine.due()
    assert all(isinstance(step, Bury) for step in second)
    for step in second:
        machine.do(step)
    assert machine.due() == []
    speechless = {it.replica for it in machine.running.values() if it.state is None}
    assert machine.running.keys() - speechless <= machine.orders.keys()
    nearly_void = {it.replica for it in machine.orders.values() if it.launch_by <= NOW < it.void_at}
    assert machine.orders.keys() - nearly_void <= machine.running.keys()


@given(st.lists(_ORDERS, unique_by=_by_replica), st.lists(_RUNS, unique_by=_by_replica))
def test_nobody_gets_two_steps_at_once(orders: list[Order], running: list[Running]) -> None:
    names = []
    for step in due(orders, running):
        match step:
            case Launch(it) | Tell(it) | Void(it):
                names.append(it.replica)
            case Adopt(at):
                names.append(at.replica)
            case Terminate(replica) | Kill(replica) | Bury(replica):
                names.append(replica)
    assert len(names) == len(set(names))

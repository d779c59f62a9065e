"""What follows from earlier orders and failures; and that nothing is ordered twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.workers.placement_facts import (
    NOW,
    Limits,
    actions,
    asked,
    card,
    explained,
    facts,
    failed,
    model,
    planned,
    recorded,
    replica,
    starting,
    starts,
)
from workers.placement.actions import Drain, MarkFailed, Outlook, Sleep, Start, Stop, Wake
from workers.placement.plan import plan
from workers.replicas import ReplicaState

ONE = [card("cuda:0")]


def test_a_drained_replica_is_stopped() -> None:
    assert actions([model()], replicas=[replica(state=ReplicaState.DRAINING)]) == [Stop("m-1", "drained")]


def test_a_replica_that_drains_is_left_alone_while_it_has_work() -> None:
    assert actions([model()], replicas=[replica(state=ReplicaState.DRAINING, in_flight=1)]) == []


def test_a_replica_is_not_stopped_before_it_says_itself_that_it_drains() -> None:
    """Told, but not heard of: it may have taken a request since."""
    told = replica(told=ReplicaState.DRAINING, told_at=NOW - 1)
    assert actions([model()], replicas=[told]) == []


@pytest.mark.parametrize(
    ("state", "told", "again"),
    [
        (ReplicaState.READY, ReplicaState.DRAINING, Drain("m-1", "ordered before")),
        (ReplicaState.SLEEPING, ReplicaState.DRAINING, Drain("m-1", "ordered before")),
        (ReplicaState.READY, ReplicaState.SLEEPING, Sleep("m-1", "ordered before")),
        (ReplicaState.SLEEPING, ReplicaState.READY, Wake("m-1", "ordered before")),
        (ReplicaState.DRAINING, ReplicaState.STOPPED, Stop("m-1", "drained")),
    ],
)
def test_an_order_that_was_not_followed_is_given_again(state: ReplicaState, told: ReplicaState, again: object) -> None:
    late = replica(state=state, told=told, told_at=NOW - 15, slept_at=NOW - 60)
    assert actions([model()], replicas=[late]) == [again]
    soon = dataclasses.replace(late, told_at=NOW - 14)
    assert actions([model()], replicas=[soon]) == []


def test_a_drain_is_not_taken_back_when_work_comes() -> None:
    leaving = replica(told=ReplicaState.DRAINING, told_at=NOW - 1)
    assert starts(actions([model()], asked(), replicas=[leaving])) == [("m", ("cuda:1",))]


def test_a_replica_that_does_not_become_ready_is_stopped() -> None:
    stuck = [starting(started_at=NOW - 1801)]
    assert actions([model()], replicas=stuck) == [Stop("m-1", "not ready after 1800 s")]
    assert actions([model()], replicas=[starting(started_at=NOW - 1799)]) == []


def test_a_replica_that_failed_is_replaced() -> None:
    assert starts(actions([model()], asked(), replicas=[replica(state=ReplicaState.FAILED)], devices=ONE))


@pytest.mark.parametrize(("count", "wait_s"), [(1, 5), (2, 10), (3, 20), (4, 40)])
def test_after_a_failed_load_the_next_waits_twice_as_long(count: int, wait_s: float) -> None:
    args: Any = ([model()], asked())
    assert starts(actions(*args, failures=[failed(count=count, ago_s=wait_s - 0.1)])) == []
    assert starts(actions(*args, failures=[failed(count=count, ago_s=wait_s)]))


def test_who_waits_for_the_next_try_learns_when_it_is() -> None:
    found = explained("m", [model()], asked(), failures=[failed(count=2, ago_s=4)])
    assert (found.outlook, found.code, found.retry_after_s) == (Outlook.BACKING_OFF, None, 6.0)
    assert found.text == "out of memory; the next try is in 6 s"


def test_a_model_that_keeps_failing_is_given_up_once_with_the_reason() -> None:
    args: Any = ([model()], asked())
    assert actions(*args, failures=[failed(count=5, ago_s=9999)]) == [MarkFailed(model="m", reason="out of memory")]
    given_up = [failed(count=5, ago_s=9999, given_up=True)]
    assert actions(*args, failures=given_up) == []
    found = explained("m", *args, failures=given_up)
    assert (found.outlook, found.code, found.text) == (Outlook.FAILED, "model_load_failed", "out of memory")


def test_what_cannot_get_better_is_given_up_at_once() -> None:
    found = actions([model()], asked(), failures=[failed(permanent=True)])
    assert found == [MarkFailed(model="m", reason="out of memory")]


def test_failures_of_one_model_do_not_hold_another() -> None:
    found = actions([model("a"), model("b")], asked("a"), asked("b"), failures=[failed("a", count=5, given_up=True)])
    assert starts(found) == [("b", ("cuda:0",))]


def test_a_new_replica_gets_the_lowest_slot_that_is_free() -> None:
    there = [replica(id_="m-a", slot=0, in_flight=4), replica(id_="m-b", slot=2, in_flight=4)]
    wide = model(replicas_max=9)
    (start,) = actions([wide], asked(interactive=4, oldest_s=9.0), replicas=there)
    assert isinstance(start, Start)
    assert start.slot == 1


SITUATIONS: dict[str, dict[str, Any]] = {
    "a cold model": {"models": [model()], "demands": [asked()]},
    "a flood": {"models": [model(replicas_max=4)], "demands": [asked(interactive=99)]},
    "pinned ones": {"models": [model("a", pinned=True, replicas_min=2), model("b", pinned=True)]},
    "a swap": {
        "models": [model(mib=40_000), model("x")],
        "demands": [asked()],
        "replicas": [replica("x", mib=40_000)],
        "devices": ONE,
    },
    "a swap for somebody who starves": {
        "models": [model(mib=40_000), model("x")],
        "demands": [asked(oldest_s=60.0)],
        "replicas": [replica("x", mib=40_000, in_flight=3)],
        "devices": ONE,
    },
    "time to live": {"models": [model()], "replicas": [replica(last_used_at=NOW - 2000)]},
    "waking": {"models": [model()], "demands": [asked()], "replicas": [replica(state=ReplicaState.SLEEPING)]},
    "drained": {"models": [model()], "replicas": [replica(state=ReplicaState.DRAINING)]},
    "stuck": {"models": [model()], "replicas": [starting(started_at=NOW - 2000)]},
    "given up": {"models": [model()], "demands": [asked()], "failures": [failed(count=7)]},
}


@pytest.mark.parametrize("case", SITUATIONS.values(), ids=SITUATIONS)
def test_what_was_ordered_is_not_ordered_again(case: dict[str, Any]) -> None:
    rest = {key: value for key, value in case.items() if key not in ("models", "demands")}
    before = facts(case["models"], *case.get("demands", ()), **rest)
    done = plan(before, NOW)
    assert done.actions
    after = recorded(before, done)
    assert plan(after, NOW + 1).actions == ()


def test_a_lost_start_is_made_up_for_once_its_reservation_has_run_out() -> None:
    before = facts([model()], asked())
    after = recorded(before, plan(before, NOW))
    assert starts(plan(after, NOW + 29).actions) == []
    assert starts(plan(after, NOW + 31).actions) == [("m", ("cuda:0",))]


def test_the_same_facts_give_the_same_plan_in_whatever_order_they_come() -> None:
    models = [model(name, 20_000) for name in "abcdef"]
    demands = [asked(name) for name in "abcdef"]
    assert planned(models, *demands) == planned(models[::-1], *demands[::-1])


def test_a_plan_can_be_read_by_people() -> None:
    found = planned([model(load_s=12.0)], asked(), limits=Limits())
    assert found.explanations["m"].text == "it is being loaded, which takes about 12 s"
    assert [action.why for action in found.actions if isinstance(action, Start)] == ["work waits for it"]

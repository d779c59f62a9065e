"""An alias moves from `old` to `new`: one of the two always serves."""

from __future__ import annotations

import pytest

from tests.workers.placement_facts import (
    NOW,
    Rollout,
    actions,
    asked,
    card,
    explained,
    failed,
    model,
    replica,
    sent_away,
    starting,
    starts,
)
from workers.placement.actions import Outlook
from workers.placement.facts import Demand, LoadFailures

ONE = [card("cuda:0")]
MOVE = [Rollout("heavy", desired="new", previous="old")]
BUILDS = [model("new"), model("old")]


def test_the_desired_build_is_loaded_because_the_previous_one_is_up() -> None:
    assert starts(actions(BUILDS, replicas=[replica("old")], rollouts=MOVE)) == [("new", ("cuda:1",))]


def test_nothing_is_loaded_for_an_alias_that_nobody_uses() -> None:
    assert actions(BUILDS, rollouts=MOVE) == []


@pytest.mark.parametrize("new", [[], [starting("new")]], ids=["not up", "loading"])
def test_the_previous_build_stays_until_the_desired_one_is_ready(new: list[object]) -> None:
    unused = replica("old", last_used_at=NOW - 4000)
    assert sent_away(actions(BUILDS, replicas=[unused, *new], rollouts=MOVE)) == []


def test_the_previous_build_is_not_evicted_before_the_desired_one_is_ready() -> None:
    there = [replica("old", mib=40_000)]
    models = [model("new", 40_000), model("old"), model("m", 40_000)]
    found = actions(models, asked("m", oldest_s=1000.0), replicas=there, devices=ONE, rollouts=MOVE)
    assert sent_away(found) == []


def test_the_previous_build_goes_once_the_desired_one_is_ready_and_nobody_uses_it() -> None:
    fresh = [replica("new"), replica("old", last_used_at=NOW - 59)]
    assert sent_away(actions(BUILDS, replicas=fresh, rollouts=MOVE)) == []
    settled = [replica("new"), replica("old", last_used_at=NOW - 61)]
    assert sent_away(actions(BUILDS, replicas=settled, rollouts=MOVE)) == ["old-1"]


def test_the_previous_build_ends_and_does_not_sleep() -> None:
    up = [replica("new"), replica("old", last_used_at=NOW - 61, can_sleep=True)]
    assert [type(one).__name__ for one in actions(BUILDS, replicas=up, rollouts=MOVE)] == ["Drain"]


def test_a_previous_build_that_is_pinned_stays_for_its_own_sake() -> None:
    models = [model("new"), model("old", pinned=True)]
    up = [replica("new"), replica("old", last_used_at=NOW - 9999)]
    assert sent_away(actions(models, replicas=up, rollouts=MOVE)) == []


def test_the_previous_build_still_serving_stands_in_while_the_desired_one_loads() -> None:
    found = explained("new", BUILDS, asked("new"), replicas=[replica("old"), starting("new")], rollouts=MOVE)
    assert (found.outlook, found.instead) == (Outlook.LOADING, "old")


@pytest.mark.parametrize("why", [failed("new"), failed("new", count=9)], ids=["backing off", "given up"])
def test_the_previous_build_is_tried_when_the_desired_one_is_lost(why: LoadFailures) -> None:
    assert starts(actions(BUILDS, asked("new"), rollouts=MOVE, failures=[why])) == [("old", ("cuda:0",))]


def test_the_previous_build_is_not_loaded_while_the_desired_one_can_be() -> None:
    assert starts(actions(BUILDS, asked("new"), rollouts=MOVE)) == [("new", ("cuda:0",))]


def test_the_previous_build_is_tried_where_there_is_no_room_for_the_desired_one() -> None:
    models = [model("new", 40_000), model("old", 5_000), model("x", pinned=True)]
    there = [replica("x", mib=30_000)]
    found = actions(models, asked("new"), replicas=there, devices=ONE, rollouts=MOVE)
    assert starts(found) == [("old", ("cuda:0",))]


def test_a_stand_in_that_is_asked_for_itself_is_loaded_once() -> None:
    demands = [asked("new", oldest_s=20.0), asked("old")]
    assert len(starts(actions(BUILDS, *demands, rollouts=MOVE, failures=[failed("new")]))) == 1


def test_once_it_stands_in_it_is_not_loaded_again() -> None:
    up = [starting("old")]
    assert (
        actions(BUILDS, asked("new"), replicas=up, rollouts=MOVE, failures=[failed("new", count=9, given_up=True)])
        == []
    )


def test_a_served_alias_that_grows_does_not_bring_its_previous_build_back() -> None:
    models = [model("new", 40_000, replicas_max=2), model("old", 5_000)]
    full = [replica("new", mib=40_000, in_flight=4)]
    more = asked("new", interactive=8, oldest_s=9.0)
    assert starts(actions(models, more, replicas=full, devices=ONE, rollouts=MOVE)) == []


def test_a_desired_build_that_an_operator_unloads_is_not_loaded_for_the_move() -> None:
    assert starts(actions(BUILDS, Demand(model="new", unload=True), replicas=[replica("old")], rollouts=MOVE)) == []


def test_a_rollout_from_a_build_that_is_no_longer_known_is_an_alias_like_any_other() -> None:
    gone = [Rollout("heavy", desired="new", previous="gone")]
    assert starts(actions([model("new")], asked("new"), rollouts=gone)) == [("new", ("cuda:0",))]

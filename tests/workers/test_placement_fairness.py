"""Who is placed next. One card that holds one of the models that ask for it, unless said otherwise."""

from __future__ import annotations

from typing import Any

from tests.workers.placement_facts import Limits, actions, asked, card, model, replica, starts
from workers.placement.facts import Demand

ONE = [card("cuda:0")]
LARGE = 40_000


def first(*models: Any, demands: Any = (), **fields: Any) -> str:
    (only,) = starts(actions(models, *demands, devices=ONE, **fields))
    return only[0]


def test_a_pinned_model_comes_first() -> None:
    demands = [asked("m", interactive=99, oldest_s=500.0)]
    assert first(model("m", LARGE), model("pinned", LARGE, pinned=True), demands=demands) == "pinned"


def test_of_pinned_models_the_largest_comes_first() -> None:
    assert first(model("a", 20_000, pinned=True), model("b", LARGE, pinned=True)) == "b"


def test_what_an_operator_loads_comes_before_what_waits() -> None:
    demands = [asked("m", oldest_s=500.0), Demand(model="ordered", load=True)]
    assert first(model("m", LARGE), model("ordered", LARGE), demands=demands) == "ordered"


def test_beyond_the_age_limit_the_oldest_comes_first_however_little_waits() -> None:
    demands = [asked("a", interactive=500, oldest_s=46.0), asked("b", oldest_s=47.0)]
    assert first(model("a", LARGE), model("b", LARGE), demands=demands) == "b"


def test_below_it_the_most_waiting_time_comes_first() -> None:
    demands = [asked("a", interactive=2, oldest_s=10.0), asked("b", interactive=9, oldest_s=10.0)]
    assert first(model("a", LARGE), model("b", LARGE), demands=demands) == "b"


def test_the_cheaper_load_comes_first_where_as_much_waits() -> None:
    demands = [asked("a"), asked("b")]
    assert first(model("a", LARGE, load_s=60.0), model("b", LARGE, load_s=5.0), demands=demands) == "b"


def test_a_chat_comes_before_a_file_of_bulk_work() -> None:
    demands = [asked("a", interactive=0, bulk=40, bulk_oldest_s=5.0), asked("b", interactive=3, oldest_s=5.0)]
    assert first(model("a", LARGE), model("b", LARGE), demands=demands) == "b"


def test_bulk_work_does_not_wait_for_ever() -> None:
    demands = [asked("a", interactive=0, bulk=1, bulk_oldest_s=901.0), asked("b", interactive=99, oldest_s=20.0)]
    assert first(model("a", LARGE), model("b", LARGE), demands=demands) == "a"


def test_the_first_replica_of_one_comes_before_the_second_of_another() -> None:
    cards = [card("cuda:0"), card("cuda:1")]
    busy = [replica("a", mib=LARGE, in_flight=4)]
    models = [model("a", LARGE, replicas_max=2), model("b", LARGE)]
    demands = [asked("a", interactive=400, oldest_s=500.0), asked("b")]
    found = actions(models, *demands, replicas=busy, devices=cards, limits=Limits(loads_at_once=8))
    assert starts(found) == [("b", ("cuda:1",))]


def test_a_minimum_without_a_request_comes_after_requests() -> None:
    demands = [asked("b")]
    assert first(model("a", LARGE, replicas_min=1), model("b", LARGE), demands=demands) == "b"

"""What `celerity up` tells of models, and when it says that everything is ready."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.model_news import ModelNews, Sight, all_failed, any_ready, still_awaited
from workers.placement.facts import LoadFailures
from workers.registry import ModelSpec

A, B = ModelSpec(id="a", pinned=True, aliases=("light", "small")), ModelSpec(id="b", pinned=True)
MODELS = {spec.id: spec for spec in (A, B)}


def failed(model: str = "a", count: int = 1, **fields: Any) -> LoadFailures:
    return LoadFailures(model=model, count=count, last_at=1.0, reason="its weights are broken", **fields)


def sight(*failures: LoadFailures, **ready: int) -> Sight:
    return Sight(ready, {it.model: it for it in failures})


def told(news: ModelNews, at: Sight) -> list[str]:
    return [f"{it.model}: {it.text}" for it in news.of(at, MODELS, 7.4)]


def test_who_became_ready_is_told_once_with_its_aliases() -> None:
    news = ModelNews()
    assert told(news, sight()) == []
    assert told(news, sight(a=1)) == ["a: ready after 7 s, also called light, small"]
    assert told(news, sight(a=2)) == []
    assert told(news, sight(a=2, other=1)) == ["other: ready after 7 s"]
    assert [it.text for it in news.of(sight(a=2, later=1), MODELS, None)] == ["unloaded", "ready"]


def test_who_went_is_told_as_unloaded_unless_it_failed() -> None:
    news = ModelNews()
    told(news, sight(a=1, b=1))
    assert told(news, sight(failed("b"))) == ["a: unloaded", "b: failed: its weights are broken"]
    assert told(news, sight(a=1)) == ["a: ready after 7 s, also called light, small"]


def test_each_failed_load_is_told_and_asks_for_the_log() -> None:
    news = ModelNews()
    assert [it.bad for it in news.of(sight(failed()), MODELS, 1)] == [True]
    assert told(news, sight(failed())) == []
    assert told(news, sight(failed(count=2))) == ["a: failed: its weights are broken"]
    given_up = told(news, sight(failed(count=3, given_up=True)))
    assert given_up[0] == "a: failed: its weights are broken"
    assert "given up" in given_up[1]
    assert told(news, sight(failed(count=3, given_up=True))) == []


def test_failures_of_after_a_success_are_news_again() -> None:
    news = ModelNews()
    told(news, sight(failed(count=2, given_up=True)))
    told(news, sight(a=1))
    assert told(news, sight(failed()))[-1] == "a: failed: its weights are broken"


def test_why_a_pinned_model_is_not_loaded_at_all_is_told_once() -> None:
    news, at = ModelNews(), Sight(refused={"a": "too large"})
    assert told(news, at) == ["a: not loaded: too large"]
    assert told(news, at) == []
    assert told(news, Sight(refused={"a": "no room"})) == ["a: not loaded: no room"]


@pytest.mark.parametrize(
    ("at", "awaited", "lost", "serves"),
    [
        (sight(), ["a", "b"], False, False),
        (sight(a=1), ["b"], False, True),
        (sight(failed("a")), ["b"], False, False),
        (sight(failed("a"), b=1), [], False, True),
        (sight(failed("a", given_up=True), b=1), [], False, True),
        (sight(failed("a", given_up=True), failed("b")), [], False, False),
        (sight(failed("a", given_up=True), failed("b", given_up=True)), [], True, False),
        (Sight({"a": 1}, refused={"b": "too large"}), [], False, True),
        (Sight(refused={"a": "too large", "b": "too large"}), [], False, False),
    ],
)
def test_what_is_waited_for(at: Sight, awaited: list[str], lost: bool, serves: bool) -> None:
    assert still_awaited([A, B], at) == awaited
    assert all_failed([A, B], at) is lost
    assert any_ready([A, B], at) is serves


def test_without_pinned_models_nothing_is_waited_for() -> None:
    assert (still_awaited([], sight()), all_failed([], sight()), any_ready([], sight())) == ([], False, True)

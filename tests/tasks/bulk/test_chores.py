"""Long work in slices: it takes turns, and one that breaks keeps nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tasks.bulk.chores import Chores
from tasks.bulk.ledger import LedgerError


def steps(done: list[str], name: str, *, count: int, error: Exception | None = None) -> Iterator[bool]:
    for _ in range(count):
        done.append(name)
        yield True
    if error is not None:
        raise error


def test_chores_take_turns_and_say_when_one_has_ended() -> None:
    chores, done = Chores(), list[str]()
    chores.begin("a", "k", lambda: steps(done, "a", count=2), 0.0)
    chores.begin("b", "k", lambda: steps(done, "b", count=1), 0.0)
    assert chores.step(0.0) == (True, False)
    assert chores.step(0.0) == (True, True)
    assert chores.step(0.0) == (False, True)
    assert done == ["a", "b", "a"]
    assert "a" not in chores


def test_one_of_a_kind_is_begun_once_and_another_kind_takes_its_place() -> None:
    chores, done = Chores(), list[str]()
    chores.begin("a", "one", lambda: steps(done, "one", count=9), 0.0)
    chores.begin("a", "one", lambda: steps(done, "again", count=9), 0.0)
    chores.step(0.0)
    chores.begin("a", "two", lambda: steps(done, "two", count=9), 0.0)
    chores.step(0.0)
    assert done == ["one", "two"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("a bug")])
def test_one_that_fails_is_put_off_and_the_others_go_on(error: Exception) -> None:
    chores, done = Chores(), list[str]()
    chores.begin("a", "k", lambda: steps(done, "a", count=0, error=error), 0.0)
    chores.begin("b", "k", lambda: steps(done, "b", count=9), 0.0)
    chores.step(0.0)
    chores.begin("a", "k", lambda: steps(done, "a", count=1), 4.9)
    chores.step(4.9)
    assert done == ["b", "b"]
    chores.begin("a", "k", lambda: steps(done, "a", count=1), 5.1)
    chores.step(5.1)
    assert done == ["b", "b", "b", "a"]


@pytest.mark.parametrize("error", [LedgerError("away"), redis.ConnectionError("away")])
def test_that_redis_or_the_ledger_is_away_is_everybodys_affair(error: Exception) -> None:
    chores = Chores()
    chores.begin("a", "k", lambda: steps([], "a", count=0, error=error), 0.0)
    with pytest.raises(type(error)):
        chores.step(0.0)
    assert "a" not in chores

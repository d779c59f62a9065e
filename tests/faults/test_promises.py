"""The README's table is made of what was measured."""

from __future__ import annotations

import pytest

from tests.faults.matrix import ROWS
from tests.faults.promises import BEGIN, END, put
from tests.faults.row import Check, Result
from tests.faults.table import markdown


def result(**changes: object) -> Result:
    fields: dict[str, object] = {
        "row": "F1",
        "fault": "a worker is killed",
        "engine": "sim",
        "client_sees": "nothing",
        "lost": "nothing",
        "requests": 800,
        "clean": 800,
        "retried": 1,
        "migrated": 32,
        "failed": 0,
        "cut": 0,
        "cancelled": 0,
        "dirty": 0,
        "recovery_s": 0.5,
        "longest_gap_s": 2.9,
        "took_s": 100.0,
        "invariants": {"I1": "held", "I4": "n/a"},
        "checks": [],
        "problems": [],
    }
    return Result(**(fields | changes))  # type: ignore[arg-type]


def test_a_promise_says_what_was_seen() -> None:
    page = put(f"before\n{BEGIN}\nold\n{END}\nafter", [result()])
    assert "| a worker is killed (F1) | nothing | nothing | 800 of 800 right, 33 of them by another worker" in page
    assert page.startswith("before\n")
    assert page.endswith("\nafter")
    assert "old" not in page


def test_both_engines_share_a_line_and_the_rest_is_told_elsewhere() -> None:
    results = [result(migrated=0, retried=0), result(engine="vllm", migrated=0, retried=0), result(row="F36")]
    page = put(f"{BEGIN}{END}", results)
    assert page.count("800 of 800 right") == 2
    assert "800 of 800 right; vLLM: 800 of 800 right |" in page


def test_what_does_not_hold_is_not_promised() -> None:
    page = put(f"{BEGIN}{END}", [result(clean=790, failed=10, problems=["0 failed: 10"])])
    assert "**does not hold yet**: 790 of 800 right" in page


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="promises"):
        put("nothing here", [result()])


def test_the_table_says_what_is_broken() -> None:
    checks = [Check("longest gap", False, "7 s")]
    assert "**I3 broken**, **not: longest gap**" in markdown([result(invariants={"I3": "broken"}, checks=checks)])


def test_every_row_of_the_matrix_is_there() -> None:
    assert {row.id for row in ROWS} == {f"F{n}" for n in range(1, 39)}

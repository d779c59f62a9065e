"""What a look at a batch says: how fast it goes, how long it takes, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.batch_display import doing
from deploy.batch_facts import BatchFacts, Pace, Rates, facts_of, time_left_s
from deploy.batch_view import error_of_line, spoken


def look(done: int, failed: int = 0, **more: Any) -> BatchFacts:
    document = {
        "id": "batch_x",
        "status": "in_progress",
        "endpoint": "/v1/chat/completions",
        "created_at": 1000,
        "in_progress_at": 1010,
        "request_counts": {"total": 1000, "completed": done, "failed": failed},
        "usage": {"input_tokens": 0, "output_tokens": 50 * done},
    }
    return facts_of(document | more)


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace()
    assert pace.look(look(0), 0.0) is None
    assert pace.look(look(1), 0.5) is None
    assert pace.look(look(10), 2.0) == Rates(5.0, 250.0)
    for at in range(3, 60):
        found = pace.look(look(10 + 2 * (at - 2)), float(at))
    assert found == Rates(2.0, 100.0)
    for at in range(60, 92):
        found = pace.look(look(124), float(at))
    assert found is None


def test_lines_that_failed_are_lines_that_are_over() -> None:
    pace = Pace()
    pace.look(look(0), 0.0)
    assert pace.look(look(3, 7), 2.0) == Rates(5.0, 75.0)


def test_tokens_are_those_that_were_made_and_of_embeddings_those_that_were_read() -> None:
    assert look(0, usage={"input_tokens": 7, "output_tokens": 9}).tokens == 9
    assert look(0, usage={"input_tokens": 7, "output_tokens": 0}).tokens == 7
    assert look(0, usage=None).tokens == 0


@pytest.mark.parametrize(
    ("facts", "left"),
    [
        (look(250), 30.0),
        (look(200, 50), 30.0),
        (look(0), None),
        (look(250, in_progress_at=None), None),
        (look(250, in_progress_at=1020), None),
        (look(1000, status="completed"), None),
    ],
)
def test_what_is_left_is_reckoned_by_the_pace_since_it_began(facts: BatchFacts, left: float | None) -> None:
    assert time_left_s(facts, 1020.0) == left


def test_how_far_it_is_fits_a_line() -> None:
    assert doing(look(0), None) == "0/1,000"
    assert (
        doing(look(400, 100), Rates(2.5, 1234.5))
        == "400/1,000, 100 failed, 2.5 lines/s, 1,234 tokens/s, 3 min 20 s left"
    )
    assert doing(look(1000, status="finalizing"), Rates(2.5, 12.0)) == "1,000/1,000"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (3605, "1 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


@pytest.mark.parametrize("raw", [b"nonsense\n", b"7\n", b'{"error": "nonsense"}\n'])
def test_an_error_that_cannot_be_read_is_shown_as_it_is(raw: bytes) -> None:
    assert error_of_line(raw) == raw.decode().strip()

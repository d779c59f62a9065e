from __future__ import annotations

import pytest

from workers.placement.reliability import Reliability

HOUR = 3600.0


def after(successes: int = 0, failures: int = 0) -> Reliability:
    found = Reliability()
    for _ in range(successes):
        found = found.succeeded(0.0)
    for _ in range(failures):
        found = found.failed(0.0)
    return found


@pytest.mark.parametrize(("successes", "failures", "score"), [(0, 0, 0.0), (1, 0, 0.5), (7, 2, 0.7), (3, 0, 0.75)])
def test_the_score_is_successes_over_all_that_happened_and_one(successes: int, failures: int, score: float) -> None:
    assert after(successes, failures).score(0.0) == pytest.approx(score)


def test_what_happened_counts_half_after_an_hour() -> None:
    faded = after(successes=8, failures=4).faded(HOUR)
    assert (faded.successes, faded.failures) == (4.0, 2.0)


def test_counts_fade_as_much_in_two_steps_as_in_one() -> None:
    once, twice = after(8, 4).faded(2 * HOUR), after(8, 4).faded(HOUR / 2).faded(2 * HOUR)
    assert once.successes == pytest.approx(twice.successes)


def test_a_clock_that_went_back_fades_nothing() -> None:
    assert after(8, 4).faded(-HOUR).successes == 8


def test_a_new_node_is_trusted_although_its_score_is_low() -> None:
    assert Reliability().score(0.0) < 0.7
    assert Reliability().trusted(0.0)


def test_a_node_that_had_nothing_to_do_overnight_is_trusted() -> None:
    assert after(successes=5).trusted(12 * HOUR)


def test_a_node_that_fails_is_not_trusted() -> None:
    assert not after(successes=2, failures=1).trusted(0.0)


def test_successes_restore_trust() -> None:
    node = after(failures=1)
    tries = 0
    while not node.trusted(0.0):
        node, tries = node.succeeded(0.0), tries + 1
    assert tries == 5


def test_a_failure_is_forgotten_in_time() -> None:
    assert not after(failures=1).trusted(HOUR / 2)
    assert after(failures=1).trusted(HOUR + 1)

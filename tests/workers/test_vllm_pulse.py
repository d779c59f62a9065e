"""When an engine that has not died is given up."""

from __future__ import annotations

from typing import Any

from workers.engine.vllm_pulse import Pulse


def look(pulse: Pulse, now: float, **seen: Any) -> str | None:
    return pulse.trouble(now, **{"steps": 1, "unfinished": 0, "stopped": False} | seen)


def test_an_idle_engine_may_rest_for_ever() -> None:
    pulse = Pulse(30)
    assert [look(pulse, now) for now in (0, 1, 1000)] == [None] * 3


def test_an_engine_that_makes_no_step_for_its_requests_is_given_up() -> None:
    pulse = Pulse(30)
    assert look(pulse, 100, unfinished=1) is None
    assert look(pulse, 129, unfinished=1) is None
    assert look(pulse, 130, unfinished=1) == "has made no step for 30 s"


def test_every_step_gives_it_more_time() -> None:
    pulse = Pulse(30)
    assert [look(pulse, now, unfinished=1, steps=now) for now in range(0, 200, 29)] == [None] * 7


def test_time_without_requests_does_not_count() -> None:
    pulse = Pulse(30)
    look(pulse, 0, unfinished=1)
    look(pulse, 20)
    assert look(pulse, 45, unfinished=1) is None
    assert look(pulse, 51, unfinished=1) is not None


def test_a_stopped_process_is_given_up_when_seen_twice() -> None:
    pulse = Pulse(30)
    assert look(pulse, 10, stopped=True) is None
    assert look(pulse, 10.2, stopped=True) is None  # two looks at one moment are one
    assert look(pulse, 11, stopped=True) == "has been stopped by a signal"


def test_a_process_that_goes_on_between_two_looks_is_kept() -> None:
    pulse = Pulse(30)
    assert [look(pulse, now, stopped=now % 2 == 0) for now in range(6)] == [None] * 6

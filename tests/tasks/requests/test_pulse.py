"""How often one says that one lives: seldom without work, and never so seldom that one is taken for dead."""

from __future__ import annotations

import itertools

import pytest

from tasks.requests.pulse import ALIVE_S, PULSE_S, RESTING_ALIVE_S, RESTING_PULSE_S, RESTS_AFTER_S, Pace

BEGAN = 1000.0


def pulses(pace: Pace, until: float, *, busy_until: float = 0.0) -> list[tuple[float, float]]:
    """Return when one pulses who asks every `PULSE_S`, and until when each pulse is believed."""
    found = []
    now = BEGAN
    while now < until:
        if now < busy_until:
            pace.busy(now)
        if pace.due(now):
            found.append((now, now + pace.alive_s(now)))
            pace.pulsed(now)
        now += PULSE_S
    return found


@pytest.mark.parametrize("busy_s", [0.0, 0.4, 20.0])
def test_each_pulse_is_believed_until_after_the_next(busy_s: float) -> None:
    told = pulses(Pace(BEGAN), BEGAN + 60, busy_until=BEGAN + busy_s)
    for (_, believed_until), (at, _) in itertools.pairwise(told):
        assert believed_until - at > ALIVE_S - 1.5 * PULSE_S


def test_who_has_work_pulses_each_time() -> None:
    assert len(pulses(Pace(BEGAN), BEGAN + 60, busy_until=BEGAN + 60)) == 60 / PULSE_S


def test_who_rests_pulses_seldom_and_is_believed_for_longer() -> None:
    pace = Pace(BEGAN)
    told = pulses(pace, BEGAN + 60)
    resting = [one for one in told if one[0] > BEGAN + RESTS_AFTER_S]
    assert len(resting) <= 60 / RESTING_PULSE_S + 1
    assert {round(until - at, 6) for at, until in resting} == {RESTING_ALIVE_S}


def test_work_ends_the_rest_at_once() -> None:
    pace = Pace(BEGAN)
    now = BEGAN + 60
    pace.pulsed(now)
    assert pace.resting(now)
    assert not pace.due(now)
    pace.busy(now)
    assert pace.due(now)
    assert pace.alive_s(now) == ALIVE_S

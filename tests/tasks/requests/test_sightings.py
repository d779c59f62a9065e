"""Who is believed dead, and when nobody is."""

from __future__ import annotations

from tasks.requests.sightings import QUIET_S, Sightings


def test_a_death_needs_two_looks_some_time_apart() -> None:
    seen = Sightings(apart_s=0.6, now=0.0)
    now = QUIET_S
    assert seen.certain({"a"}, now) == frozenset()
    assert seen.certain({"a"}, now + 0.5) == frozenset()
    assert seen.certain({"a", "b"}, now + 0.7) == {"a"}


def test_whoever_is_seen_in_between_lives() -> None:
    seen = Sightings(apart_s=0.6, now=0.0)
    now = QUIET_S
    seen.certain({"a"}, now)
    seen.certain(set(), now + 0.5)
    assert seen.certain({"a"}, now + 1.0) == frozenset()


def test_nobody_dies_while_our_own_connection_is_disturbed() -> None:
    seen = Sightings(apart_s=0.6, now=0.0)
    seen.certain({"a"}, QUIET_S)
    seen.disturbed(QUIET_S + 0.5)
    assert seen.certain({"a"}, QUIET_S + 2) == frozenset()
    later = QUIET_S + 1.0 + QUIET_S
    assert seen.certain({"a"}, later) == frozenset()
    assert seen.certain({"a"}, later + 1) == {"a"}

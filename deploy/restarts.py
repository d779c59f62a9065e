"""When a service that died is started again. Pure: the times of its crashes go in, a time comes out."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW_S = 600.0
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0


def after_crash(crashes: Sequence[float], *, now: float) -> float:
    """Return when to start again after the latest of `crashes`; all are times of the monotonic clock.

    For ever, but ever more slowly: everything depends on these services.
    """
    recent = sum(1 for at in crashes if now - at <= WINDOW_S)
    delay_s: float = FIRST_DELAY_S * 2 ** min(recent - 1, 10)
    return now + min(LONGEST_DELAY_S, delay_s)

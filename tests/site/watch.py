"""What must never be, as somebody sees it who looks at the machines and not at the planner's books."""

from __future__ import annotations

from collections.abc import Iterable

from tests.site.machines import Card, Process
from workers.placement.actions import Drain, Sleep, Stop
from workers.replicas import ReplicaState


def faults_of(action: Drain | Sleep | Stop, process: Process, siblings: int) -> Iterable[str]:
    """Yield what is wrong with sending `process` away, one of `siblings` replicas of its model."""
    if process.model.pinned and siblings <= process.model.floor:
        yield f"pinned {process.id} was sent away: {action.why}"
    if process.state is ReplicaState.STARTING and not isinstance(action, Stop):
        yield f"{process.id} was sent away while it loaded: {action.why}"
    # One whose order got lost may have taken work before it is told again. It finishes that.
    allowed = not isinstance(action, Stop) and action.why == "ordered before"
    allowed |= isinstance(action, Drain) and "too long" in action.why
    if process.running and not allowed:
        yield f"{process.id} was sent away with work in flight: {action.why}"


def over_committed(cards: Iterable[Card]) -> Iterable[str]:
    for card in cards:
        if card.used_mib + card.foreign_mib > card.total_mib:
            yield f"{card.place} holds {card.used_mib} of {card.total_mib} MiB"

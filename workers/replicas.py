"""Where a replica is in its life, and the moves that life has.

A replica never starts again: stopped and failed are final, and the next start gets a new
id, so that a late word of the old process cannot be taken for one of the new.
"""

from __future__ import annotations

from enum import StrEnum


class ReplicaState(StrEnum):
    STARTING = "starting"  # the engine is loading
    READY = "ready"  # consuming its model's queue
    SLEEPING = "sleeping"  # takes nothing; its weights are in main memory, its device is nearly free
    DRAINING = "draining"  # takes nothing new, finishes what it has
    STOPPED = "stopped"  # gone because it was asked to
    FAILED = "failed"  # gone without being asked


_NEXT: dict[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.STARTING: frozenset({ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.FAILED}),
    ReplicaState.READY: frozenset({ReplicaState.SLEEPING, ReplicaState.DRAINING, ReplicaState.FAILED}),
    ReplicaState.SLEEPING: frozenset({ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.FAILED}),
    ReplicaState.DRAINING: frozenset({ReplicaState.STOPPED, ReplicaState.FAILED}),
    ReplicaState.STOPPED: frozenset(),
    ReplicaState.FAILED: frozenset(),
}


class IllegalTransitionError(Exception):
    """A replica was to make a move that its life does not have."""


def advance(current: ReplicaState, to: ReplicaState) -> ReplicaState:
    """Return `to` if a replica in `current` may go there. Raises IllegalTransitionError."""
    if to not in _NEXT[current]:
        raise IllegalTransitionError(f"{current} -> {to}")
    return to

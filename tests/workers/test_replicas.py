from __future__ import annotations

import pytest

from workers.replicas import IllegalTransitionError, ReplicaState, advance


@pytest.mark.parametrize("final", [ReplicaState.STOPPED, ReplicaState.FAILED])
def test_nothing_follows_the_end(final: ReplicaState) -> None:
    for state in ReplicaState:
        with pytest.raises(IllegalTransitionError):
            advance(final, state)


def test_a_replica_lives_in_order() -> None:
    state = ReplicaState.STARTING
    for following in (ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.STOPPED):
        state = advance(state, following)
    assert state is ReplicaState.STOPPED


def test_a_replica_may_sleep_and_wake_any_number_of_times() -> None:
    state = ReplicaState.READY
    for following in (ReplicaState.SLEEPING, ReplicaState.READY) * 2:
        state = advance(state, following)
    assert state is ReplicaState.READY


def test_what_has_not_loaded_cannot_sleep() -> None:
    with pytest.raises(IllegalTransitionError):
        advance(ReplicaState.STARTING, ReplicaState.SLEEPING)


def test_a_draining_replica_is_never_ready_again() -> None:
    with pytest.raises(IllegalTransitionError):
        advance(ReplicaState.DRAINING, ReplicaState.READY)

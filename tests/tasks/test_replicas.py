from __future__ import annotations

import pytest

from tasks.replicas import IllegalTransitionError, ReplicaFacts, ReplicaState, advance

FACTS = ReplicaFacts(
    id="demo-1",
    model="demo",
    node="n",
    device="cpu",
    state=ReplicaState.READY,
    pid=7,
    in_flight=1,
    seats=64,
    kv_usage=0.25,
    memory_mib=800,
    started_at=1.5,
    last_used_at=None,
    heartbeat_at=2.5,
)


def test_facts_survive_redis() -> None:
    written = {name.encode(): value.encode() for name, value in FACTS.encode().items()}
    assert ReplicaFacts.decode(written) == FACTS


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


def test_a_draining_replica_is_never_ready_again() -> None:
    with pytest.raises(IllegalTransitionError):
        advance(ReplicaState.DRAINING, ReplicaState.READY)

from __future__ import annotations

from tasks.records.replicas import ReplicaFacts, ReplicaState

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

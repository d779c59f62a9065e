"""The status document: from facts, and from a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks import keys, status
from tasks.connections import command_client
from tasks.messages import Call, Endpoint
from tasks.nodes import DEAD_AFTER_S, Node, NodeFacts, NodeStore
from tasks.queues import Priority
from tasks.reaper import Reaper
from tasks.replicas import ReplicaFacts, ReplicaState
from tasks.request_store import RequestStore
from tasks.status import QueueFacts
from tests.stack import RedisServer
from workers.devices import Device, DeviceKind, Holder, unknown
from workers.registry import ModelSpec, Registry

S = ReplicaState


def replica(
    id_: str = "m-1", state: S = S.READY, *, model: str = "m", node: str = "n1", memory_mib: int = 800
) -> ReplicaFacts:
    return ReplicaFacts(
        id=id_,
        model=model,
        node=node,
        device="cpu",
        state=state,
        pid=7,
        in_flight=2,
        seats=8,
        kv_usage=0.5,
        memory_mib=memory_mib,
        started_at=1.0,
        last_used_at=1_700_000_000.25,
        heartbeat_at=2.0,
    )


def node(age_s: float = 1.0, **facts: object) -> Node:
    return Node(NodeFacts(id="n1", **facts), age_s)  # type: ignore[arg-type]


CPU = Device(id="cpu", kind=DeviceKind.CPU, total_mib=2000, free_mib=900)


def test_the_document_has_the_shape_that_operators_rely_on() -> None:
    document = status.document(
        models=[ModelSpec(id="m", engine="sim", pinned=True, aliases=("light",))],
        replicas=[replica(), replica("m-2", memory_mib=100)],
        nodes=[node(0.44, devices=(CPU,))],
        queues={"m": QueueFacts(3, 4, 1.26)},
    )
    one = {
        "id": "m-1",
        "node": "n1",
        "device": "cpu",
        "state": "ready",
        "rotation": "in",
        "pid": 7,
        "in_flight": 2,
        "memory_mib": 800,
        "last_used_at": "2023-11-14T22:13:20.250+00:00",
    }
    assert document == {
        "models": [
            {
                "id": "m",
                "state": "ready",
                "pinned": True,
                "aliases": ["light"],
                "queue": {"interactive": 3, "bulk": 4, "oldest_s": 1.3},
                "replicas": [one, one | {"id": "m-2", "memory_mib": 100}],
            }
        ],
        "nodes": [
            {
                "id": "n1",
                "state": "healthy",
                "heartbeat_age_s": 0.4,
                "devices": [
                    {
                        "id": "cpu",
                        "kind": "cpu",
                        "total_mib": 2000,
                        "free_mib": 900,
                        "reserved_mib": 900,
                        "name": "",
                        "unknown": None,
                        "foreign": [],
                    }
                ],
            }
        ],
    }
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("replicas", "nodes", "state"),
    [
        ([], [], "unloaded"),
        ([replica()], [], "ready"),
        ([replica(), replica("m-2", S.STARTING)], [], "ready"),
        ([replica(state=S.STARTING)], [], "loading"),
        ([replica(state=S.DRAINING)], [], "unloaded"),
        ([replica(state=S.FAILED)], [], "failed"),
        ([], [node(launched={"m-9": "m"})], "loading"),
        ([], [node(launched={"x-9": "x"})], "unloaded"),
        ([], [node(DEAD_AFTER_S + 1, launched={"m-9": "m"})], "unloaded"),
        ([replica(state=S.DRAINING)], [node(launched={"m-1": "m"})], "unloaded"),
        ([], [node(failed={"m": "no memory"})], "failed"),
        ([replica()], [node(failed={"m": "no memory"})], "ready"),
        ([], [node(failed={"m": "no memory"}, launched={"m-9": "m"})], "loading"),
    ],
)
def test_the_state_of_a_model_follows_from_its_replicas_and_nodes(
    replicas: list[ReplicaFacts], nodes: list[Node], state: str
) -> None:
    assert status.model_state("m", replicas, nodes) == state


def test_a_failed_model_says_why() -> None:
    document = status.document(
        models=[ModelSpec(id="m")], replicas=[], nodes=[node(failed={"m": "no memory"})], queues={}
    )
    assert document["models"][0]["reason"] == "no memory"


def test_a_node_that_fell_silent_is_dead() -> None:
    assert not node(DEAD_AFTER_S).healthy
    assert status.document(models=[], replicas=[], nodes=[node(99.0)], queues={})["nodes"][0]["state"] == "dead"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[redis.Redis]:
    server = RedisServer(tmp_path)
    server.start()
    client = command_client(server.url)
    yield client
    client.close()
    server.stop()


def call(id_: str, priority: Priority) -> Call:
    return Call(id=id_, model="m", endpoint=Endpoint.CHAT, body=b"{}", stream=False, gateway="", priority=priority)


@pytest.mark.integration
def test_queues_are_counted_and_the_oldest_request_is_found(client: redis.Redis) -> None:
    store = RequestStore(client)
    for number, priority in enumerate([Priority.BULK, Priority.INTERACTIVE, Priority.INTERACTIVE]):
        store.admit(call(f"r{number}", priority), gateway_id="g", max_depth=10)
    seconds, _ = client.time()
    client.hset(keys.request("r0"), "admitted_ms", (int(seconds) - 60) * 1000)
    facts = status.read_queues(client, ["m", "idle"])
    assert facts["idle"] == QueueFacts(0, 0, None)
    assert (facts["m"].interactive, facts["m"].bulk) == (2, 1)
    assert facts["m"].oldest_s is not None
    assert facts["m"].oldest_s >= 60


@pytest.mark.integration
def test_messages_that_are_not_ours_are_counted_but_have_no_age(client: redis.Redis) -> None:
    client.lpush("model.m", b"{", b"[]")
    assert status.read_queues(client, ["m"])["m"] == QueueFacts(2, 0, None)


@pytest.mark.integration
def test_a_node_of_the_release_before_is_understood(client: redis.Redis) -> None:
    store = NodeStore(client)
    store.beat(NodeFacts(id="old"))
    client.hset(keys.node("old"), "devices", b'[{"id":"cpu","kind":"cpu","total_mib":2000,"free_mib":900}]')
    assert store.all()[0].facts.devices == (CPU,)


@pytest.mark.integration
def test_a_node_is_read_as_it_described_itself_until_it_goes(client: redis.Redis) -> None:
    store = NodeStore(client)
    lost = unknown("cuda:1", DeviceKind.CUDA, "it is lost", name="A40", uuid="GPU-1")
    shared = Device(id="cuda:0", kind=DeviceKind.CUDA, total_mib=9, free_mib=1, foreign=(Holder(7, 5), Holder(8, None)))
    facts = NodeFacts(id="n1", devices=(CPU, shared, lost), launched={"m-1": "m"}, failed={"x": "why"})
    store.beat(facts)
    (read,) = store.all()
    assert read.facts == facts
    assert read.healthy
    assert 0 < client.ttl(keys.node("n1")) <= keys.NODE_TTL_S
    client.delete(keys.node("n1"))
    assert store.all()[0].facts == NodeFacts(id="n1")
    store.remove("n1")
    assert store.all() == []


@pytest.mark.integration
def test_a_replica_that_ended_is_forgotten_at_once(client: redis.Redis) -> None:
    client.hset(keys.replica("m-1"), mapping=replica().encode())
    client.zadd(keys.REPLICAS, {"m-1": 1.0})
    registry = Registry({"m": ModelSpec(id="m")}, {})
    assert status.read(client, registry)["models"][0]["state"] == "ready"
    Reaper(client).bury("m-1")
    assert status.read(client, registry)["models"][0]["state"] == "unloaded"
    assert client.keys("*") == []

"""The status document: from facts, and from a real Redis."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.messages import Call, Endpoint
from tasks.queues import Priority
from tasks.records import status, waiting
from tasks.records.load_failures import LoadFailureStore
from tasks.records.nodes import DEAD_AFTER_S, Node, NodeFacts, NodeStore, redis_time
from tasks.records.orders import START_WITHIN_S, Order, OrderStore
from tasks.records.outlooks import LATEST_S, OutlookStore
from tasks.records.replicas import ReplicaFacts, ReplicaState
from tasks.records.status import Known
from tasks.records.waiting import Waiting
from tasks.records.wishes import Wish, WishStore
from tasks.requests.reaper import Reaper
from tasks.requests.request_store import RequestStore
from workers.devices import Device, DeviceKind, Holder, unknown
from workers.placement.actions import Explanation, Outlook
from workers.placement.facts import LoadFailures, Need
from workers.placement.reliability import Reliability
from workers.registry import ModelSpec, Registry, Rollout

S = ReplicaState
NOW = 1000.0


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


def order(id_: str = "m-1", *, model: str = "m", mib: int = 900, told: S = S.STARTING, at: float = NOW) -> Order:
    return Order(
        replica=id_, model=model, node="n1", devices=("cpu",), mib=mib, slot=0, ordered_at=at, told=told, why="pinned"
    )


def document(**known: Any) -> dict[str, Any]:
    return status.document(Known(now=NOW, **known))


ONE = {
    "id": "m-1",
    "node": "n1",
    "device": "cpu",
    "state": "ready",
    "told": None,
    "why": None,
    "rotation": "in",
    "pid": 7,
    "in_flight": 2,
    "memory_mib": 800,
    "reserved_mib": 800,
    "last_used_at": "2023-11-14T22:13:20.250+00:00",
}


def test_the_document_has_the_shape_that_operators_rely_on() -> None:
    found = document(
        models=[ModelSpec(id="m", engine="sim", pinned=True, aliases=("light",))],
        replicas=[replica(), replica("m-2", memory_mib=100)],
        orders=[order("m-2"), order("m-3", mib=50)],
        nodes=[node(0.44, devices=(CPU,), reliability=Reliability(8.0, 1.0, NOW))],
        waiting={"m": {Priority.INTERACTIVE: Waiting(3, 0.2), Priority.BULK: Waiting(4, 1.26)}},
        loader_ran_at=NOW - 1.52,
    )
    silent = {"pid": None, "in_flight": 0, "memory_mib": 0, "last_used_at": None}
    assert found == {
        "models": [
            {
                "id": "m",
                "state": "ready",
                "outlook": "serving",
                "reason": None,
                "progress_percent": None,
                "code": None,
                "instead": None,
                "wish": None,
                "pinned": True,
                "aliases": ["light"],
                "queue": {"interactive": 3, "bulk": 4, "oldest_s": 1.3},
                "failures": None,
                "replicas": [
                    ONE,
                    ONE | {"id": "m-2", "memory_mib": 100, "reserved_mib": 900, "why": "pinned"},
                    ONE | silent | {"id": "m-3", "state": "starting", "reserved_mib": 50, "why": "pinned"},
                ],
            }
        ],
        "nodes": [
            {
                "id": "n1",
                "state": "healthy",
                "heartbeat_age_s": 0.4,
                "problem": None,
                "reliability": {"score": 0.8, "trusted": True},
                "devices": [
                    {
                        "id": "cpu",
                        "kind": "cpu",
                        "total_mib": 2000,
                        "free_mib": 900,
                        "reserved_mib": 1750,
                        "name": "",
                        "unknown": None,
                        "foreign": [],
                    }
                ],
            }
        ],
        "rollouts": [],
        "loader": {"automatic": True, "last_run_age_s": 1.5},
    }
    assert json.loads(json.dumps(found)) == found


def failures(**fields: Any) -> LoadFailures:
    return LoadFailures(model="m", count=1, last_at=1_700_000_000.0, reason="no memory", **fields)


@pytest.mark.parametrize(
    ("known", "state"),
    [
        ({}, "unloaded"),
        ({"replicas": [replica()]}, "ready"),
        ({"replicas": [replica(), replica("m-2", S.STARTING)]}, "ready"),
        ({"replicas": [replica(state=S.STARTING)]}, "loading"),
        ({"replicas": [replica(state=S.DRAINING)]}, "unloaded"),
        ({"replicas": [replica(state=S.FAILED)]}, "failed"),
        ({"replicas": [replica(state=S.SLEEPING)]}, "sleeping"),
        ({"replicas": [replica(state=S.SLEEPING), replica("m-2")]}, "ready"),
        ({"replicas": [replica()], "orders": [order(told=S.SLEEPING)]}, "sleeping"),
        ({"replicas": [replica(state=S.SLEEPING)], "orders": [order(told=S.READY)]}, "loading"),
        ({"replicas": [replica()], "orders": [order(told=S.READY)]}, "ready"),
        ({"replicas": [replica()], "orders": [order(told=S.DRAINING)]}, "unloaded"),
        ({"replicas": [replica(state=S.STARTING)], "orders": [order(told=S.STOPPED)]}, "unloaded"),
        ({"orders": [order()]}, "loading"),
        ({"orders": [order(model="x")]}, "unloaded"),
        ({"orders": [order(at=NOW - START_WITHIN_S)]}, "unloaded"),
        ({"orders": [order(at=NOW - 99)], "nodes": [node(launched={"m-1": "m"})]}, "loading"),
        ({"orders": [order(told=S.STOPPED)], "nodes": [node(launched={"m-1": "m"})]}, "unloaded"),
        ({"nodes": [node(launched={"m-9": "m"})]}, "loading"),
        ({"nodes": [node(launched={"x-9": "x"})]}, "unloaded"),
        ({"nodes": [node(DEAD_AFTER_S + 1, launched={"m-9": "m"})]}, "unloaded"),
        ({"replicas": [replica(state=S.DRAINING)], "nodes": [node(launched={"m-1": "m"})]}, "unloaded"),
        ({"failures": {"m": failures()}}, "unloaded"),
        ({"failures": {"m": failures(permanent=True)}}, "failed"),
        ({"failures": {"m": failures(given_up=True)}}, "failed"),
        ({"failures": {"m": failures(given_up=True)}, "replicas": [replica()]}, "ready"),
        ({"failures": {"m": failures(given_up=True)}, "orders": [order()]}, "loading"),
        ({"outlooks": {"m": Explanation(outlook=Outlook.CANNOT_RUN, text="too large")}}, "failed"),
        ({"outlooks": {"m": Explanation(outlook=Outlook.NO_CAPACITY, text="full")}}, "unloaded"),
    ],
)
def test_the_state_of_a_model_follows_from_its_replicas_orders_and_failures(known: dict[str, Any], state: str) -> None:
    assert document(models=[ModelSpec(id="m")], **known)["models"][0]["state"] == state


def test_a_model_that_is_not_served_says_why() -> None:
    loading = Explanation(outlook=Outlook.LOADING, text="it is being loaded", retry_after_s=3.0, progress=0.416)
    full = Explanation(outlook=Outlook.NO_CAPACITY, text="no room")
    specs = [ModelSpec(id=id_) for id_ in ("m", "full", "ill", "up", "idle")]
    models = document(
        models=specs,
        orders=[order()],
        replicas=[replica("up-1", model="up")],
        outlooks={"m": loading, "full": full, "up": loading},
        failures={"ill": failures(given_up=True, nodes=frozenset({"n1"}))},
        wishes={"m": Wish.LOAD},
    )["models"]
    told = [[model[key] for key in ("state", "outlook", "reason", "progress_percent", "code")] for model in models]
    assert told == [
        ["loading", "loading", "it is being loaded", 42, None],
        ["unloaded", "no_capacity", "no room", None, "pool_exhausted"],
        ["failed", None, "no memory", None, None],
        ["ready", "serving", None, None, None],
        ["unloaded", None, None, None, None],
    ]
    assert [model["wish"] for model in models] == ["load", None, None, None, None]
    assert models[2]["failures"] == {
        "count": 1,
        "reason": "no memory",
        "last_at": "2023-11-14T22:13:20.000+00:00",
        "nodes": ["n1"],
        "given_up": True,
    }


@pytest.mark.parametrize(
    ("up", "serves"), [(["new", "old"], "new"), (["old"], "old"), (["new"], "new"), (["other"], None), ([], None)]
)
def test_a_rollout_says_which_build_serves(up: list[str], serves: str | None) -> None:
    found = document(
        models=[ModelSpec(id=id_) for id_ in ("new", "old", "other")],
        rollouts={"gpt": Rollout("new", "old")},
        replicas=[replica(f"{id_}-1", model=id_) for id_ in up],
    )
    assert found["rollouts"] == [{"alias": "gpt", "desired": "new", "previous": "old", "serves": serves}]


def test_what_sleeps_holds_what_it_says() -> None:
    asleep = dataclasses.replace(replica(state=S.SLEEPING), sleep_mib=30)
    found = document(models=[ModelSpec(id="m")], replicas=[asleep], orders=[order()], nodes=[node(devices=(CPU,))])
    assert found["nodes"][0]["devices"][0]["reserved_mib"] == 30


def test_a_replica_on_two_devices_is_counted_on_both() -> None:
    two = tuple(dataclasses.replace(CPU, id=id_, kind=DeviceKind.CUDA) for id_ in ("cuda:0", "cuda:1", "cuda:2"))
    wide = dataclasses.replace(order(), devices=("cuda:0", "cuda:1"))
    found = document(models=[ModelSpec(id="m")], orders=[wide], nodes=[node(devices=two)])
    assert found["models"][0]["replicas"][0]["device"] == "cuda:0,cuda:1"
    assert [device["reserved_mib"] for device in found["nodes"][0]["devices"]] == [900, 900, 0]


def test_a_loader_that_never_ran_has_no_age() -> None:
    assert document(automatic=False)["loader"] == {"automatic": False, "last_run_age_s": None}


def test_a_node_that_fell_silent_is_dead() -> None:
    assert not node(DEAD_AFTER_S).healthy
    assert document(nodes=[node(99.0)])["nodes"][0]["state"] == "dead"


def call(id_: str, priority: Priority) -> Call:
    return Call(id=id_, model="m", endpoint=Endpoint.CHAT, body=b"{}", stream=False, gateway="", priority=priority)


@pytest.mark.integration
def test_queues_are_counted_and_the_oldest_request_is_found(client: redis.Redis) -> None:
    store = RequestStore(client)
    for number, priority in enumerate([Priority.BULK, Priority.INTERACTIVE, Priority.INTERACTIVE]):
        store.admit(call(f"r{number}", priority), gateway_id="g", max_depth=10)
    seconds, _ = client.time()
    client.hset(keys.request("r0"), "admitted_ms", (int(seconds) - 60) * 1000)
    found = waiting.read(client, ["m", "idle"], redis_time(client))
    assert waiting.oldest_s(found["idle"]) is None
    assert {level: found["m"][level].count for level in Priority} == {Priority.INTERACTIVE: 2, Priority.BULK: 1}
    assert (found["m"][Priority.BULK].oldest_s or 0) >= 60
    assert waiting.oldest_s(found["m"]) == found["m"][Priority.BULK].oldest_s


@pytest.mark.integration
def test_messages_that_are_not_ours_are_counted_but_have_no_age(client: redis.Redis) -> None:
    client.lpush("model.m", b"{", b"[]")
    assert waiting.read(client, ["m"], 0.0)["m"][Priority.INTERACTIVE] == Waiting(2, None)


@pytest.mark.integration
def test_a_document_is_put_together_from_redis(client: redis.Redis) -> None:
    now = redis_time(client)
    OrderStore(client).adopt(order(at=now))
    OutlookStore(client).write({"m": Explanation(outlook=Outlook.LOADING, text="soon", progress=0.5)})
    LoadFailureStore(client).failed("x", node="n1", reason="broken", permanent=True, now=now)
    WishStore(client).wish("m", Wish.LOAD)
    WishStore(client).switch(automatic=False)
    client.set(keys.LOADER_RAN, str(now - 40))
    found = status.read(client, Registry({"m": ModelSpec(id="m"), "x": ModelSpec(id="x")}, {}))
    m, x = found["models"]
    assert (m["state"], m["progress_percent"], m["wish"], m["replicas"][0]["id"]) == ("loading", 50, "load", "m-1")
    assert (x["state"], x["reason"]) == ("failed", "broken")
    assert found["loader"]["automatic"] is False
    assert 40 <= found["loader"]["last_run_age_s"] < 60


@pytest.mark.integration
def test_what_no_tick_says_any_more_is_shown_only_if_it_was_a_refusal(client: redis.Redis) -> None:
    full = Explanation(outlook=Outlook.NO_CAPACITY, text="full")
    OutlookStore(client).write({"m": Explanation(outlook=Outlook.LOADING, text="soon"), "x": full})
    for model in "m", "x":
        client.expire(keys.outlook(model), keys.OUTLOOK_TTL_S - LATEST_S)
    found = status.read(client, Registry({"m": ModelSpec(id="m"), "x": ModelSpec(id="x")}, {}))
    assert [model["reason"] for model in found["models"]] == [None, "full"]


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
    facts = NodeFacts(id="n1", devices=(CPU, shared, lost), launched={"m-1": "m"})
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
def test_what_models_need_is_written_and_read_only_when_it_is_news(client: redis.Redis) -> None:
    store, told, other = NodeStore(client), {"m": (Need(DeviceKind.CPU, 7),)}, {"m": (Need(DeviceKind.CPU, 8),)}
    for id_ in ("a", "b"):
        store.beat(NodeFacts(id=id_, needs=told))
    client.hset(keys.node("a"), "needs", b"{}")
    store.beat(NodeFacts(id="a", needs=told))
    assert client.hget(keys.node("a"), "needs") == b"{}"
    store.beat(NodeFacts(id="a", needs=other))
    assert [node.facts.needs for node in store.all()] == [other, told]
    client.hset(keys.node("b"), "needs", b"{}")
    assert store.all()[1].facts.needs == told
    assert [node.facts.needs for node in store.all(needs=False)] == [{}, {}]
    client.flushdb()
    store.beat(NodeFacts(id="b", needs=told))
    assert NodeStore(client).all()[0].facts.needs == NodeStore(client).of("b").needs == told


@pytest.mark.integration
def test_a_replica_that_ended_is_forgotten_at_once(client: redis.Redis) -> None:
    client.hset(keys.replica("m-1"), mapping=replica().encode())
    client.zadd(keys.REPLICAS, {"m-1": 1.0})
    registry = Registry({"m": ModelSpec(id="m")}, {})
    assert status.read(client, registry)["models"][0]["state"] == "ready"
    Reaper(client).bury("m-1")
    assert status.read(client, registry)["models"][0]["state"] == "unloaded"
    assert client.keys("*") == []

"""What is ordered stands in Redis until its replica has ended, and a late word about one that has does nothing."""

from __future__ import annotations

import pytest
import redis

from tasks import keys
from tasks.records.orders import START_WITHIN_S, Order, OrderStore
from workers.replicas import ReplicaState

pytestmark = pytest.mark.integration

S = ReplicaState


def order(replica: str, *, node: str = "n", at: float = 1.0) -> Order:
    return Order(
        replica=replica, model="m", node=node, devices=("cuda:0", "cuda:1"), mib=7, slot=2, ordered_at=at, told_at=at
    )


@pytest.fixture
def store(client: redis.Redis) -> OrderStore:
    client.set(keys.LOADER_EPOCH, 7)
    return OrderStore(client)


def test_orders_survive_redis_oldest_first_and_by_node(store: OrderStore) -> None:
    orders = [order("b", at=2.5), order("a", at=2.5), order("c", node="other")]
    assert store.write(orders, epoch=7)
    assert store.all() == [orders[2], orders[1], orders[0]]
    assert store.of("other") == [orders[2]]


def test_a_node_gets_no_others_orders_whatever_it_is_called(store: OrderStore) -> None:
    orders = [order(f"r{at}", node=node, at=at) for at, node in enumerate(("n", "n2", "n*", "[n]", "a\\b"))]
    assert store.write(orders, epoch=7)
    assert [store.of(it.node) for it in orders] == [[it] for it in orders]


def test_a_field_of_the_next_release_does_not_hide_an_order(store: OrderStore, client: redis.Redis) -> None:
    text = order("a").encode().replace(b'{"replica"', b'{"news": 1, "replica"')
    client.hset(keys.ORDERS, "n/a", text)
    assert store.all() == [order("a")]


def test_what_is_told_later_replaces_what_was_ordered(store: OrderStore) -> None:
    store.write([order("a")], epoch=7)
    store.write([order("a").then(S.DRAINING, "not needed", 9.0)], epoch=7)
    (found,) = store.all()
    assert (found.told, found.why, found.told_at) == (S.DRAINING, "not needed", 9.0)
    assert (found.ordered_at, found.void_at) == (1.0, 1.0 + START_WITHIN_S)


def test_whom_its_agent_has_just_buried_is_told_nothing(store: OrderStore) -> None:
    store.write([order("a"), order("b")], epoch=7)
    store.remove("a", node="n")
    told = [order("a").then(S.SLEEPING, "", 9.0), order("b").then(S.SLEEPING, "", 9.0)]
    assert store.write(told, epoch=7)
    assert [it.replica for it in store.all()] == ["b"]


def test_what_runs_already_is_adopted_once(store: OrderStore) -> None:
    assert store.adopt(order("a", at=1.0))
    assert not store.adopt(order("a", at=2.0))
    assert store.all() == [order("a", at=1.0)]

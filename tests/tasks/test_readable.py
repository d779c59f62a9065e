"""A record that cannot be read costs a line in the log, and nobody the others."""

from __future__ import annotations

import pytest
import redis

from tasks import keys
from tasks.readable import readable
from tasks.records.orders import Order, OrderStore
from tasks.records.replicas import ReplicaStore


def test_what_cannot_be_read_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    records = [("one", "1"), ("strange", "x"), ("two", "2")]
    assert list(readable(records, int)) == [1, 2]
    assert list(readable(records, int)) == [1, 2]
    assert [vars(record)["record"] for record in caplog.records] == ["strange"]


@pytest.mark.integration
def test_a_replica_and_an_order_of_a_newer_release_stop_nobody(client: redis.Redis) -> None:
    client.zadd(keys.REPLICAS, {"new": 9e12})
    client.hset(keys.replica("new"), mapping={"id": "new", "state": "dreaming"})
    known = Order(replica="r", model="m", node="n", devices=("cpu",), mib=1, slot=0, ordered_at=1.0)
    assert OrderStore(client).adopt(known)
    client.hset(keys.ORDERS, "n/new", b'{"told": "dreaming"}')
    assert ReplicaStore(client).all() == []
    assert OrderStore(client).all() == [known]

"""One loader at a time, and whoever was refused is not forgotten."""

from __future__ import annotations

import pytest
import redis

from tasks import keys
from tasks.loader.leadership import LEADS_S, Leadership
from tasks.records.orders import Order, OrderStore

pytestmark = pytest.mark.integration


def test_each_turn_has_an_epoch_of_its_own(client: redis.Redis) -> None:
    epochs = [Leadership(client).led(lambda epoch: epoch) for _ in range(3)]
    assert epochs == [1, 2, 3]
    assert not client.exists(keys.LOADER_LOCK)


def test_while_one_leads_another_does_nothing_and_has_it_look_again(client: redis.Redis) -> None:
    first, second = Leadership(client), Leadership(client)
    turns: list[int] = []

    def turn(epoch: int) -> str:
        turns.append(epoch)
        if len(turns) == 1:
            for _ in range(3):
                assert second.led(lambda _: pytest.fail("two lead at once")) is None
        return f"turn {len(turns)}"

    assert first.led(turn) == "turn 2"
    assert turns == [1, 2]


def test_whoever_breaks_off_gives_the_lead_back(client: redis.Redis) -> None:
    def broken(_: int) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        Leadership(client).led(broken)
    assert Leadership(client).led(lambda epoch: epoch) == 2


def test_whoever_died_leads_only_for_so_long(client: redis.Redis) -> None:
    def dies(_: int) -> None:
        assert 0 < client.pttl(keys.LOADER_LOCK) <= LEADS_S * 1000
        client.delete(keys.LOADER_LOCK)  # as its time runs out
        assert Leadership(client).led(lambda epoch: epoch) == 2
        client.set(keys.LOADER_LOCK, "somebody else's")

    Leadership(client).led(dies)
    assert client.get(keys.LOADER_LOCK) == b"somebody else's", "the lock of another is not ours to give back"


@pytest.mark.parametrize("count", [0, 1])
def test_whoever_was_overtaken_orders_nothing_any_more(client: redis.Redis, count: int) -> None:
    store = OrderStore(client)
    orders = [
        Order(replica="r", model="m", node="n", devices=("cpu",), mib=1, slot=0, ordered_at=1.0) for _ in range(count)
    ]

    def slow(epoch: int) -> bool:
        client.delete(keys.LOADER_LOCK)
        Leadership(client).led(lambda _: None)
        return store.write(orders, epoch=epoch)

    assert Leadership(client).led(slow) is False
    assert store.all() == []
    assert Leadership(client).led(lambda epoch: store.write(orders, epoch=epoch)) is True
    assert len(store.all()) == count

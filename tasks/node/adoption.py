"""The order that a replica would have had which runs without one: a predecessor started it, or Redis forgot. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.node.agenda import Running
from tasks.records.orders import Order
from tasks.records.replicas import ReplicaFacts
from workers.devices import Device
from workers.placement.facts import Need


def adopted(
    it: Running,
    told: ReplicaFacts | None,
    *,
    node: str,
    devices: Sequence[Device],
    needs: Sequence[Need],
    orders: Iterable[Order],
) -> Order:
    """Return where it runs: as it says itself, else as it would most likely have been ordered on this node."""
    taken = {order.slot for order in orders if order.model == it.model}
    mib = told.reserved_mib if told else None
    if mib is None:
        mib = needs[0].mib if needs else 0
    return Order(
        replica=it.replica,
        model=it.model,
        node=node,
        devices=tuple(told.device.split(",")) if told else tuple(device.id for device in devices[:1]),
        mib=mib,
        slot=min(set(range(len(taken) + 1)) - taken),
        ordered_at=it.started_at,
        why="it ran already",
    )

"""Every replica there is or is about to be: what replicas, their orders and their nodes say, put together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.records.nodes import Node
from tasks.records.orders import Order
from tasks.records.replicas import ReplicaFacts
from workers.replicas import ReplicaState

_ENDING = (ReplicaState.DRAINING, ReplicaState.STOPPED, ReplicaState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """One replica, from the order to start it until its process has gone."""

    id: str
    model: str
    node: str
    devices: tuple[str, ...]
    mib: int
    """Reserved on each of its devices. What it says it holds, where it sleeps or runs without an order."""
    state: ReplicaState
    facts: ReplicaFacts | None = None
    """What it says of itself; None while it has not spoken."""
    told: ReplicaState | None = None
    """Where it was told to go since it was started."""
    why: str | None = None
    """Of its latest order."""

    @property
    def heading(self) -> ReplicaState:
        """Where it will be once it has done what it was told; on its way to take work it counts as starting."""
        if self.told is None or self.told is self.state or self.state in _ENDING:
            return self.state
        match self.told:
            case ReplicaState.READY:
                return ReplicaState.STARTING
            case ReplicaState.SLEEPING:
                return ReplicaState.SLEEPING
            case _:
                return ReplicaState.DRAINING


def presences(
    replicas: Sequence[ReplicaFacts], orders: Iterable[Order], nodes: Iterable[Node], now: float
) -> list[Presence]:
    """Return those that have spoken, as given, and then those that were ordered or launched and have not."""
    of = {order.replica: order for order in orders}
    spoken = {facts.id for facts in replicas}
    launched = {
        id_: (node.facts.id, model) for node in nodes if node.healthy for id_, model in node.facts.launched.items()
    }
    found = [_speaking(facts, of.get(facts.id)) for facts in replicas]
    for order in of.values():
        promised = order.told is ReplicaState.STARTING and now < order.void_at
        if order.replica not in spoken and (promised or order.replica in launched):
            found.append(_silent(order))
    for id_, (node, model) in launched.items():
        if id_ not in spoken and id_ not in of:
            found.append(Presence(id=id_, model=model, node=node, devices=(), mib=0, state=ReplicaState.STARTING))
    return found


def _speaking(facts: ReplicaFacts, order: Order | None) -> Presence:
    return Presence(
        id=facts.id,
        model=facts.model,
        node=facts.node,
        devices=order.devices if order else tuple(facts.device.split(",")),
        mib=_held(facts, order),
        state=facts.state,
        facts=facts,
        told=_told(order),
        why=_why(order),
    )


def _silent(order: Order) -> Presence:
    return Presence(
        id=order.replica,
        model=order.model,
        node=order.node,
        devices=order.devices,
        mib=order.mib,
        state=ReplicaState.STARTING,
        told=_told(order),
        why=_why(order),
    )


def _held(facts: ReplicaFacts, order: Order | None) -> int:
    if facts.state is ReplicaState.SLEEPING:
        return facts.sleep_mib
    return order.mib if order else facts.memory_mib


def _told(order: Order | None) -> ReplicaState | None:
    return None if order is None or order.told is ReplicaState.STARTING else order.told


def _why(order: Order | None) -> str | None:
    return order.why or None if order else None

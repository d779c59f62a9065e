"""What tests have a machine do, and what they ask it."""

from __future__ import annotations

import dataclasses

from tasks import keys
from tasks.records.load_failures import LoadFailureStore
from tasks.records.moves import Move
from tasks.records.nodes import NodeFacts, NodeStore
from tasks.records.orders import Order
from tests.tasks.fake_launcher import FakeReplica
from tests.tasks.loader_site import LoaderSite, Machine
from workers.placement.facts import LoadFailures
from workers.replicas import ReplicaState


def load(site: LoaderSite, machine: Machine) -> FakeReplica:
    """Have a replica of `m` ordered and launched."""
    site.ask()
    site.tick()
    machine.turn()
    site.answered()
    return machine.launcher.running()[-1]


def tell(site: LoaderSite, replica: FakeReplica, told: ReplicaState, *, at: float | None = None) -> Order:
    """Order it to do something else, as the loader does."""
    order = next(it for it in site.orders.all() if it.replica == replica.name)
    changed = dataclasses.replace(order, told=told, told_at=order.ordered_at + 1 if at is None else at)
    assert site.orders.write([changed], epoch=int(site.client.get(keys.LOADER_EPOCH) or 0))
    return changed


def facts(site: LoaderSite, node: str = "n") -> NodeFacts:
    return NodeStore(site.client).of(node)


def failures(site: LoaderSite) -> list[LoadFailures]:
    return LoadFailureStore(site.client).all()


def moves(site: LoaderSite, replica: FakeReplica) -> list[Move]:
    records = site.client.xrange(keys.control(replica.name))
    return [move for _, fields in records if (move := Move.decode(fields))]  # type: ignore[union-attr,arg-type]


def facts_time(site: LoaderSite) -> float:
    seconds, _ = site.client.time()
    return float(seconds)

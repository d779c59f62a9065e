"""The loader: observe → plan → apply, every two seconds and whenever somebody waits for a cold model.

While nothing is asked for and nothing moves, it says that it need not look so often.

The thin shell round `workers.placement.plan`. It keeps nothing: what one tick has to tell
the next is in Redis, so a tick may be lost, doubled, or die at any line.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import redis

from tasks import keys
from tasks.failpoints import failpoint
from tasks.loader import cluster_facts
from tasks.loader.calm import calm_s, signs
from tasks.loader.leadership import Leadership
from tasks.records.calm import CalmStore
from tasks.records.demands import DemandStore, Memory, demand
from tasks.records.load_failures import LoadFailureStore
from tasks.records.measurements import MeasurementStore
from tasks.records.nodes import Node, NodeStore, redis_time
from tasks.records.nudge import wake_node
from tasks.records.orders import Order, OrderStore
from tasks.records.outlooks import OutlookStore
from tasks.records.replicas import ReplicaFacts, ReplicaStore
from tasks.records.wishes import Given, Wish, WishStore
from workers.launcher.base import new_replica_id
from workers.placement.actions import Action, Drain, MarkFailed, Sleep, Start, Stop, Wake
from workers.placement.facts import Facts, Rollout
from workers.placement.limits import Limits
from workers.placement.plan import plan
from workers.registry import Registry
from workers.replicas import ReplicaState

log = logging.getLogger(__name__)

_TOLD = {
    Drain: ReplicaState.DRAINING,
    Stop: ReplicaState.STOPPED,
    Sleep: ReplicaState.SLEEPING,
    Wake: ReplicaState.READY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How a tick went."""

    led: bool
    """False: another loader was at it, or overtook this one."""
    again_in_s: float | None = None
    """After how long something is due, whether or not anything happens until then."""


class Loader:
    """One process may have one; `tick` is called by one thread at a time. Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._leadership = Leadership(client)
        self._orders = OrderStore(client)
        self._nodes = NodeStore(client)
        self._replicas = ReplicaStore(client)
        self._demands = DemandStore(client)
        self._failures = LoadFailureStore(client)
        self._wishes = WishStore(client)
        self._outlooks = OutlookStore(client)
        self._measurements = MeasurementStore(client)
        self._calm = CalmStore(client)

    def tick(self, registry: Registry) -> Turn:
        """Look at everything and order what follows; nothing when another loader is at it, which looks again then."""
        return self._leadership.led(lambda epoch: self._tick(registry, epoch)) or Turn(led=False)

    def _tick(self, registry: Registry, epoch: int) -> Turn:
        now = redis_time(self._client)
        # Orders first: whoever has followed one since is seen.
        orders, nodes, replicas = self._orders.all(), self._nodes.all(), self._replicas.all()
        orders = self._living(orders, nodes, replicas, now)
        names = list(registry.models)
        wishes = self._wishes.given(names)
        waiting, memories = self._demands.waiting(names, now), self._demands.memories(names)
        running = Counter[str]()
        for replica in replicas:
            running[replica.model] += replica.in_flight
        for name in names:
            load = running[name] + sum(level.count for level in waiting[name].values())
            memories[name] = memories[name].seen(now, load, window_s=self._limits.peak_window_s)
        seen = cluster_facts.replicas(replicas, orders, nodes, now)
        models = cluster_facts.models(registry.models.values(), nodes, self._measurements.all())
        facts = Facts(
            models=models + cluster_facts.foreign(seen, registry.models, nodes),
            demands=[demand(name, waiting[name], memories[name], _wish(wishes.get(name))) for name in names],
            replicas=seen,
            devices=cluster_facts.devices(nodes, registry.layout, now),
            nodes=cluster_facts.known_nodes(nodes),
            reservations=cluster_facts.reservations(orders),
            failures=self._failures.all(),
            rollouts=[Rollout(name, rollout.desired, rollout.previous) for name, rollout in registry.rollouts.items()],
            automatic=self._wishes.automatic,
            limits=self._limits,
        )
        decided = plan(facts, now)
        if not self._apply(decided.actions, orders, epoch, now):
            log.warning("overtaken by another loader", extra={"event": "loader_overtaken", "epoch": epoch})
            return Turn(led=False)
        self._outlooks.write(decided.explanations)
        failpoint("loader_told", when=bool(decided.actions))
        self._demands.remember(_scaled(memories, decided.actions, orders, now))
        self._settle(wishes, facts)
        self._client.set(keys.LOADER_RAN, str(now), ex=keys.LOADER_RAN_TTL_S)
        self._calm.say(signs(names), calm_s(facts, decided, nodes, now))
        return Turn(led=True, again_in_s=None if decided.again_at is None else max(0.0, decided.again_at - now))

    def _living(
        self, orders: Sequence[Order], nodes: Iterable[Node], replicas: Iterable[ReplicaFacts], now: float
    ) -> list[Order]:
        """Drop orders to start that nobody has followed: their memory is free again."""
        there = {id_ for node in nodes for id_ in node.facts.launched} | {replica.id for replica in replicas}
        living = []
        for order in orders:
            if order.void_at < now and order.replica not in there:
                log.warning("order not followed", extra={"event": "order_void", **_extra(order)})
                self._orders.remove(order.replica, node=order.node)
            else:
                living.append(order)
        return living

    def _apply(self, actions: Sequence[Action], orders: Sequence[Order], epoch: int, now: float) -> bool:
        new = list(_orders(actions, orders, now))
        failpoint("loader_decided", when=bool(new))
        if not self._orders.write(new, epoch=epoch):
            return False
        failpoint("loader_ordered", when=bool(new))
        for action in actions:
            if isinstance(action, MarkFailed):
                self._failures.give_up(action.model)
        for node in sorted({order.node for order in new}):
            wake_node(self._client, node)
        failpoint("loader_woke", when=bool(new))
        for order in new:
            log.info("ordered", extra={"event": f"order_{order.told.value}", "why": order.why, **_extra(order)})
        return True

    def _settle(self, wishes: Mapping[str, Given], facts: Facts) -> None:
        """Forget the wishes that have come true, that cannot, and that somebody has asked otherwise since.

        A model that was unloaded stays away, also a pinned one, until a request asks for it.
        """
        given_up = {failed.model for failed in facts.failures if failed.given_up}
        # One that was told to leave before the wish was made is not what was wished for.
        ready = {one.model for one in facts.replicas if one.state is one.heading is ReplicaState.READY}
        asked = {demand.model for demand in facts.demands if demand.waiting}
        self._demands.served(ready)
        for model, given in wishes.items():
            loaded = given.wish is Wish.LOAD and model in ready | given_up
            if loaded or (given.wish is Wish.UNLOAD and model in asked):
                self._wishes.forget(model, given)


def _wish(given: Given | None) -> Wish | None:
    return None if given is None else given.wish


def _orders(actions: Sequence[Action], orders: Sequence[Order], now: float) -> Iterator[Order]:
    """Yield each action as an order. What runs without one is told nothing: its node's agent adopts it first."""
    of = {order.replica: order for order in orders}
    for action in actions:
        match action:
            case Start():
                yield _start(action, now)
            case MarkFailed():
                pass
            case Drain() | Stop() | Sleep() | Wake():
                if (order := of.get(action.replica)) is not None:
                    yield order.then(_TOLD[type(action)], action.why, now)
            case _:
                assert_never(action)


def _start(action: Start, now: float) -> Order:
    return Order(
        replica=new_replica_id(action.model),
        model=action.model,
        node=action.node,
        devices=action.devices,
        mib=action.mib,
        slot=action.slot,
        ordered_at=now,
        told_at=now,
        why=action.why,
    )


def _scaled(
    memories: dict[str, Memory], actions: Sequence[Action], orders: Sequence[Order], now: float
) -> dict[str, Memory]:
    """Note for which models the number of replicas was changed."""
    of = {order.replica: order.model for order in orders}
    changed = {action.model for action in actions if isinstance(action, Start)}
    changed |= {of[action.replica] for action in actions if isinstance(action, Drain) and action.replica in of}
    return {
        name: dataclasses.replace(memory, scaled_at=now) if name in changed else memory
        for name, memory in memories.items()
    }


def _extra(order: Order) -> dict[str, str]:
    return {"replica": order.replica, "model": order.model, "node": order.node, "devices": ",".join(order.devices)}

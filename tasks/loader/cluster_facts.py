"""What Redis knows of the whole site → the facts that the planner decides on. Pure: reading is the loader's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from tasks.records.nodes import Node as KnownNode
from tasks.records.orders import Order
from tasks.records.replicas import ReplicaFacts
from workers.devices import DeviceKind
from workers.estimate.measured import Measured
from workers.estimate.setup import seats_of
from workers.layout import DevicePattern, Layout
from workers.placement.facts import Device, Model, Need, Node, Place, Replica, Reservation
from workers.registry import ModelSpec
from workers.replicas import ReplicaState

_LOAD_S = 30.0
_WAKE_S = 2.0
_NOTHING: Mapping[str, Mapping[DeviceKind, Measured]] = {}


def models(
    specs: Iterable[ModelSpec],
    nodes: Sequence[KnownNode],
    measured: Mapping[str, Mapping[DeviceKind, Measured]] = _NOTHING,
) -> list[Model]:
    """Return what is to be placed, with the needs that nodes have worked out for it, and what its loads took."""
    # Machines of one kind say the same, as one object: on a large site each model is then looked up a few times.
    told = list({id(node.facts.needs): node.facts.needs for node in nodes}.values())
    return [
        Model(
            id=spec.id,
            needs=(needs := _needs(spec, told)),
            seats=_seats(spec, needs, nodes),
            pinned=spec.pinned,
            replicas_min=spec.replicas_min,
            replicas_max=spec.replicas_max,
            idle_ttl_s=spec.idle_ttl_s,
            exclusive=spec.exclusive,
            aliases=spec.aliases,
            places=_places(spec, nodes),
            load_s=_load_s(spec, needs, measured.get(spec.id, {})),
            wake_s=spec.sim.wake_s if spec.engine == "sim" else _WAKE_S,
        )
        for spec in specs
    ]


def foreign(found: Iterable[Replica], registry: Collection[str], nodes: Sequence[KnownNode]) -> list[Model]:
    """Return what is not in our registry, but in that of the node where it runs: nothing of it is to be moved.

    Sites with different models.yaml may share one Redis, and each has a loader of its own.
    """
    known = {(node.facts.id, model) for node in nodes for model in node.facts.needs}
    theirs = [it for it in found if it.model not in registry and (it.node, it.model) in known]
    live = Counter(it.model for it in theirs if it.heading in (ReplicaState.STARTING, ReplicaState.READY))
    return [
        Model(
            id=id_,
            needs=(),
            seats=1,
            pinned=live[id_] > 0,
            replicas_min=live[id_],
            replicas_max=live[id_],
            idle_ttl_s=None,
        )
        for id_ in sorted({it.model for it in theirs})
    ]


def replicas(
    facts: Sequence[ReplicaFacts], orders: Sequence[Order], nodes: Sequence[KnownNode], now: float
) -> list[Replica]:
    """Return every replica that is alive by its own word, by its node's while it has not spoken yet, or not buried yet.

    What was told to end says nothing any more while its process still ends, and holds its memory until its agent
    has struck out its order.
    """
    of = {order.replica: order for order in orders}
    spoken = {replica.id for replica in facts}
    healthy = {node.facts.id for node in nodes if node.healthy}
    launched = {id_ for node in nodes if node.healthy for id_ in node.facts.launched}
    found = [_replica(replica, of.get(replica.id)) for replica in facts]
    begun = [order for order in orders if order.told is not ReplicaState.STARTING]
    unburied = {order.replica for order in begun if order.node in healthy}
    silent = (launched | unburied) - spoken
    found += [_silent(order) for order in orders if order.replica in silent]
    return found + list(_unordered(nodes, of.keys() | spoken, now))


def reservations(orders: Iterable[Order]) -> list[Reservation]:
    """Return what was promised. The planner leaves out what it sees as a replica, and what has expired."""
    return [
        Reservation(
            replica=order.replica,
            model=order.model,
            node=order.node,
            devices=order.devices,
            mib=order.mib,
            slot=order.slot,
            expires_at=order.void_at,
        )
        for order in orders
        if order.told is ReplicaState.STARTING
    ]


def devices(nodes: Iterable[KnownNode], layout: Layout, now: float) -> list[Device]:
    found = []
    for node in nodes:
        for device in node.facts.devices:
            use = layout.use_of(node.facts.id, device.id)
            found.append(
                Device(
                    node=node.facts.id,
                    id=device.id,
                    kind=device.kind,
                    total_mib=device.total_mib,
                    free_mib=device.free_mib,
                    measured_at=now - node.heartbeat_age_s,
                    healthy=node.healthy and not device.unknown,
                    exclusive=use.exclusive,
                    bound_to=use.bound_to,
                    slots=use.slots,
                )
            )
    return found


def known_nodes(nodes: Iterable[KnownNode]) -> list[Node]:
    return [
        Node(
            id=node.facts.id,
            healthy=node.able,
            heard=node.healthy,
            reliability=node.facts.reliability,
            loads=node.facts.loads,
            ram_free_mib=node.facts.ram_free_mib,
        )
        for node in nodes
    ]


def _seats(spec: ModelSpec, needs: Sequence[Need], nodes: Iterable[KnownNode]) -> int:
    """Return how many it will take at once, by its engine's own rule; what it says itself goes before this."""
    if spec.engine == "sim":
        return spec.sim.seats
    kind = needs[0].kind if needs else DeviceKind.CPU
    totals = (it.total_mib or 0 for node in nodes for it in node.facts.devices if it.kind is kind)
    # A site may have GPUs of several sizes; with the fewest seats nobody waits for one that is not there.
    return seats_of(spec.engine_args, kind, min(totals, default=None))


def _load_s(spec: ModelSpec, needs: Iterable[Need], measured: Mapping[DeviceKind, Measured]) -> float:
    """Return what a load took on the best kind of device where one was seen."""
    for need in needs:
        if (seen := measured.get(need.kind)) is not None and seen.load_s is not None:
            return seen.load_s
    return spec.sim.load_s if spec.engine == "sim" else _LOAD_S


def _places(spec: ModelSpec, nodes: Sequence[KnownNode]) -> frozenset[Place]:
    """Return the devices that a model may be on: where the operator lets it be, and its node has it.

    A name that fits none stands for itself: nowhere is not anywhere.
    """
    having = [node for node in nodes if spec.id in node.facts.needs] or nodes
    if not spec.devices and len(having) == len(nodes):
        return frozenset()
    there = {Place(node.facts.id, device.id) for node in having for device in node.facts.devices}
    if not spec.devices:
        return frozenset(there)
    patterns = [DevicePattern.parse(text) for text in spec.devices]
    found = {place for place in there for pattern in patterns if pattern.matches(*place)}
    return frozenset(found or (Place(pattern.node, pattern.device) for pattern in patterns))


def _needs(spec: ModelSpec, all_told: Iterable[Mapping[str, tuple[Need, ...]]]) -> tuple[Need, ...]:
    """Return the ways to run a model: on GPUs first, with most memory first.

    Of nodes that disagree on the least that is needed, the most careful counts for all devices of a kind.
    """
    told = [needs[spec.id] for needs in all_told if needs.get(spec.id)]
    found: list[Need] = []
    for kind in DeviceKind:
        ways = [[need for need in needs if need.kind is kind] for needs in told]
        ways = [some for some in ways if some]
        least = max((some[-1].mib for some in ways), default=0)
        enough = {need for some in ways for need in some if need.mib >= least}
        found += sorted(enough, key=lambda need: (-need.mib, need.devices))
    return tuple(found)


def _replica(facts: ReplicaFacts, order: Order | None) -> Replica:
    ahead_s = facts.clock_ahead_s
    return Replica(
        id=facts.id,
        model=facts.model,
        node=facts.node,
        devices=order.devices if order else tuple(facts.device.split(",")),
        mib=order.mib if order else facts.memory_mib,
        state=facts.state,
        started_at=facts.started_at - ahead_s,
        ready_at=_earlier(facts.ready_at, ahead_s),
        slept_at=_earlier(facts.slept_at, ahead_s),
        last_used_at=_earlier(facts.last_used_at, ahead_s),
        in_flight=facts.in_flight,
        seats=facts.seats or None,
        slot=order.slot if order else None,
        # What it says is the machine's memory; of a GPU's nobody has asked yet.
        used_mib=facts.memory_mib or None if facts.device == DeviceKind.CPU else None,
        can_sleep=facts.can_sleep,
        sleep_mib=facts.sleep_mib,
        sleep_ram_mib=facts.sleep_ram_mib,
        told=None if order is None or order.told is ReplicaState.STARTING else order.told,
        told_at=order.told_at if order else 0.0,
    )


def _earlier(at: float | None, by_s: float) -> float | None:
    return None if at is None else at - by_s


def _unordered(nodes: Sequence[KnownNode], known: Collection[str], now: float) -> Iterator[Replica]:
    """Yield what runs though nobody has ordered it, until its agent adopts it: Redis has forgotten the order."""
    for node in nodes:
        for id_, model in node.facts.launched.items() if node.healthy else ():
            if id_ not in known:
                needs = node.facts.needs.get(model, ())
                yield Replica(
                    id=id_,
                    model=model,
                    node=node.facts.id,
                    devices=tuple(device.id for device in node.facts.devices[:1]),
                    mib=needs[0].mib if needs else 0,
                    state=ReplicaState.STARTING,
                    started_at=now,
                )


def _silent(order: Order) -> Replica:
    return Replica(
        id=order.replica,
        model=order.model,
        node=order.node,
        devices=order.devices,
        mib=order.mib,
        state=ReplicaState.STARTING,
        started_at=order.ordered_at,
        slot=order.slot,
        told=None if order.told is ReplicaState.STARTING else order.told,
        told_at=order.told_at,
    )

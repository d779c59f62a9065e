"""The facts of one tick, indexed, and the books of what the tick has decided so far.

Whatever is decided is entered at once, so that the next decision of the same tick sees it
and nothing is given away twice. What was ordered in earlier ticks and is not seen yet
(reservations, `Replica.told`) is in the books from the beginning: so a plan made from the
same facts plus its own orders asks for nothing again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from workers.devices import DeviceKind
from workers.placement.actions import Drain, Sleep, Start, Stop, Wake
from workers.placement.facts import Demand, Facts, LoadFailures, Model, Place, Replica, Reservation
from workers.placement.hosts import Host
from workers.placement.ranking import Ranking
from workers.placement.room import Room, held, untaken
from workers.replicas import ReplicaState

_GONE = (ReplicaState.STOPPED, ReplicaState.FAILED)


class Site:
    """Everything one tick knows. Not to be kept."""

    def __init__(self, facts: Facts, now: float) -> None:
        self.now = now
        self.facts = facts
        self.limits = facts.limits
        self.models: dict[str, Model] = {model.id: model for model in facts.models}
        self.failures: dict[str, LoadFailures] = {failures.model: failures for failures in facts.failures}
        self.replicas = [replica for replica in facts.replicas if replica.state not in _GONE]
        self.live: dict[str, list[Replica]] = defaultdict(list)
        """By model: ready, or becoming so, and not told otherwise."""
        self.asleep: dict[str, list[Replica]] = defaultdict(list)
        self.promised: Counter[str] = Counter()
        """By model: starts that were ordered, and whose replicas have not been seen."""
        self.dozing: set[str] = set()
        """Models with a replica that was told to sleep and does not yet."""
        self.guarded: set[str] = set()
        """Models that must not lose a replica whatever their own numbers say; see `rollouts`."""
        self.kept: set[str] = set()
        """Models that keep one replica up whatever their own numbers say."""
        self.superseded: set[str] = set()
        """Models that are up only because an alias once meant them."""
        self.again_at = float("inf")
        """When something will be possible that is not yet, and that somebody waits for."""
        self.moved: set[str] = set()
        """Replicas that this tick sends away or to sleep."""
        self._demands = {demand.model: demand for demand in facts.demands}
        self._slots: dict[str, set[int]] = defaultdict(set)
        seen = {replica.id for replica in facts.replicas}
        known = {node.id: node for node in facts.nodes}
        healthy = {node.id for node in facts.nodes if node.healthy}
        self.reservations = [
            reservation
            for reservation in facts.reservations
            if reservation.replica not in seen and reservation.expires_at > now and reservation.node in healthy
        ]
        loading = Counter(_loading(self.replicas, self.reservations))
        replaceable = _replaceable(facts, now)
        self.hosts = {
            id_: Host.of(node, loading[id_], self.limits, now, replaceable=id_ in replaceable)
            for id_, node in known.items()
        }
        self._only: dict[Place, frozenset[str] | None] = {}
        self.rooms = self._rooms()
        self._enter_replicas()
        self._enter_reservations()
        self.by_node: dict[tuple[str, DeviceKind], list[Room]] = defaultdict(list)
        for room in self.rooms.values():
            self.by_node[room.host.id, room.kind].append(room)
        self.by_free = Ranking(self.rooms.values(), _free)
        self.by_free_soon = Ranking(self.rooms.values(), _free_soon)

    def demand(self, model: str) -> Demand:
        return self._demands.get(model) or Demand(model=model)

    def count(self, model: str) -> int:
        """Replicas that serve, or will without another decision."""
        return len(self.live[model]) + self.promised[model]

    def look_again(self, at: float) -> None:
        if at > self.now:
            self.again_at = min(self.again_at, at)

    def floor(self, model: Model) -> int:
        """Return how many replicas `model` keeps whatever is asked for."""
        return max(model.floor, 1 if model.id in self.kept and model.ceiling else 0)

    def ready(self, model: str) -> list[Replica]:
        return [replica for replica in self.live[model] if replica.state is ReplicaState.READY]

    def rooms_of(self, replica: Replica) -> list[Room]:
        places = (Place(replica.node, device) for device in replica.devices)
        return [self.rooms[place] for place in places if place in self.rooms]

    def may_be_on(self, model: Model, place: Place) -> bool:
        """Say whether the operator lets `model` be there; not whether there is room."""
        only = self._only.get(place)
        return (only is None or model.id in only) and (not model.places or place in model.places)

    # What is decided.

    def start(self, model: Model, mib: int, rooms: Sequence[Room], why: str) -> Start:
        slot = next(n for n in range(len(self._slots[model.id]) + 1) if n not in self._slots[model.id])
        self._slots[model.id].add(slot)
        self.promised[model.id] += 1
        self.claim(model, mib, rooms)
        host = rooms[0].host
        host.begin_load()
        devices = tuple(sorted(room.place.device for room in rooms))
        return Start(model=model.id, slot=slot, node=host.id, devices=devices, mib=mib, why=why)

    def claim(self, model: Model, mib: int, rooms: Sequence[Room]) -> None:
        """Take the memory out of the books, also where it is not free yet."""
        for room in rooms:
            room.enter(model.id, mib)
        self._changed(rooms)

    def wake(self, replica: Replica, why: str) -> Wake:
        self.asleep[replica.model].remove(replica)
        self.live[replica.model].append(replica)
        rooms = self.rooms_of(replica)
        for room in rooms:
            room.enter(replica.model, replica.mib - replica.sleep_mib)
        if replica.node in self.hosts:
            self.hosts[replica.node].begin_load()
        self._changed(rooms)
        return Wake(replica.id, why)

    def drain(self, replica: Replica, why: str) -> Drain:
        self._let_go(replica)
        return Drain(replica.id, why)

    def stop(self, replica: Replica, why: str) -> Stop:
        self._let_go(replica)
        return Stop(replica.id, why)

    def sleep(self, replica: Replica, why: str) -> Sleep:
        self._forget(replica)
        self.moved.add(replica.id)
        self.dozing.add(replica.model)
        rooms = self.rooms_of(replica)
        for room in rooms:
            room.leave(replica.model, replica.mib - replica.sleep_mib)
        self._changed(rooms)
        if (host := self.hosts.get(replica.node)) is not None and host.ram_left is not None:
            host.ram_left -= replica.sleep_ram_mib
        return Sleep(replica.id, why)

    def may_sleep(self, replica: Replica) -> bool:
        """Say whether it can be put to sleep, and its node has the memory for it."""
        host = self.hosts.get(replica.node)
        return (
            replica.can_sleep
            and replica.state is ReplicaState.READY
            and replica.in_flight == 0
            and host is not None
            and host.ram_left is not None
            and host.ram_left >= replica.sleep_ram_mib
        )

    def _let_go(self, replica: Replica) -> None:
        active = self._forget(replica)
        self.moved.add(replica.id)
        rooms = self.rooms_of(replica)
        for room in rooms:
            room.leave(replica.model, held(replica), active=active)
        self._changed(rooms)

    def _changed(self, rooms: Iterable[Room]) -> None:
        for room in rooms:
            self.by_free.update(room)
            self.by_free_soon.update(room)

    def _forget(self, replica: Replica) -> bool:
        """Strike it from those that serve or sleep. Returns whether it was active on its devices."""
        if replica in self.asleep[replica.model]:
            self.asleep[replica.model].remove(replica)
            return False
        self.live[replica.model].remove(replica)
        return True

    # How the books begin.

    def _rooms(self) -> dict[Place, Room]:
        lone = frozenset(model.id for model in self.models.values() if model.exclusive)
        names = self._names()
        rooms = {}
        for device in self.facts.devices:
            only = None if device.bound_to is None else names.get(device.bound_to)
            self._only[Place(device.node, device.id)] = only
            host = self.hosts.get(device.node)
            if host is None or not host.healthy:
                continue
            if (room := Room.of(device, host, lone, only)) is not None:
                rooms[room.place] = room
        return rooms

    def _names(self) -> dict[str, frozenset[str]]:
        """Return the models that each name stands for: itself, or all the builds of an alias."""
        names: dict[str, set[str]] = defaultdict(set)
        for model in self.models.values():
            for name in (model.id, *model.aliases):
                names[name].add(model.id)
        for rollout in self.facts.rollouts:
            names[rollout.alias] |= {build for build in (rollout.desired, rollout.previous) if build in self.models}
        return {name: frozenset(models) for name, models in names.items() if models}

    def _enter_replicas(self) -> None:
        measured = {Place(device.node, device.id): device.measured_at for device in self.facts.devices}
        left = dict.fromkeys(self.rooms, 0)
        for place, room in self.rooms.items():
            left[place] = room.total
        for replica in self.replicas:
            self._sort_in(replica)
            if replica.slot is not None:
                self._slots[replica.model].add(replica.slot)
            heading = replica.heading
            active = replica.state is not ReplicaState.SLEEPING or heading is ReplicaState.READY
            for room in self.rooms_of(replica):
                left[room.place] -= held(replica)
                room.enter(replica.model, untaken(replica, measured[room.place]), active=active)
                if heading is ReplicaState.SLEEPING and active:
                    room.leave(replica.model, replica.mib - replica.sleep_mib)
                elif heading in (ReplicaState.DRAINING, ReplicaState.STOPPED):
                    room.leave(replica.model, held(replica), active=active)
        for place, room in self.rooms.items():
            room.free = min(room.free, left[place])

    def _sort_in(self, replica: Replica) -> None:
        match replica.heading:
            case ReplicaState.READY:
                self.live[replica.model].append(replica)
            case ReplicaState.STARTING:
                # Nobody says how it gets on once its node is silent; a ready replica speaks for itself.
                if replica.node in self.hosts and self.hosts[replica.node].healthy:
                    self.live[replica.model].append(replica)
            case ReplicaState.SLEEPING if replica.state is ReplicaState.SLEEPING:
                self.asleep[replica.model].append(replica)
            case ReplicaState.SLEEPING:
                self.dozing.add(replica.model)
                if (host := self.hosts.get(replica.node)) is not None and host.ram_left is not None:
                    host.ram_left -= replica.sleep_ram_mib
            case _:
                pass

    def _enter_reservations(self) -> None:
        for reservation in self.reservations:
            self.promised[reservation.model] += 1
            self._slots[reservation.model].add(reservation.slot)
            for device in reservation.devices:
                if (room := self.rooms.get(Place(reservation.node, device))) is not None:
                    room.enter(reservation.model, reservation.mib)


def _replaceable(facts: Facts, now: float) -> set[str]:
    """Return the nodes of whose every kind of device a node has some that is well and can be relied on."""
    relied_on = {node.id for node in facts.nodes if node.healthy and node.reliability.trusted(now)}
    kinds: dict[str, set[DeviceKind]] = {node.id: set() for node in facts.nodes}
    for device in facts.devices:
        kinds.setdefault(device.node, set()).add(device.kind)
    covered = {kind for id_ in relied_on for kind in kinds[id_]}
    return {id_ for id_, found in kinds.items() if found <= covered}


def _loading(replicas: Iterable[Replica], reservations: Iterable[Reservation]) -> Iterable[str]:
    """Name the node of each load under way, once for each."""
    for replica in replicas:
        waking = replica.state is ReplicaState.SLEEPING and replica.heading is ReplicaState.READY
        if replica.state is ReplicaState.STARTING or waking:
            yield replica.node
    for reservation in reservations:
        yield reservation.node


def _free(room: Room) -> int:
    return room.free


def _free_soon(room: Room) -> int:
    return room.free + room.coming

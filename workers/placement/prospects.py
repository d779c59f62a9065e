"""What somebody who finds no room can expect: a turn later, or nothing.

Who waits for a turn is told to wait, and so for a while is who waits for a machine to come back; who
cannot get a turn, because what holds the room may not be moved, is refused at once; and a model that
no device could hold even if it were empty is an error of its own, not a shortage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from workers.placement.actions import Explanation, Outlook
from workers.placement.facts import Model, Need, Place, Replica
from workers.placement.placing import Spot, groups
from workers.placement.room import Room, held
from workers.placement.site import Site
from workers.replicas import ReplicaState

RETRY_AFTER_S = 30.0
"""How soon it is worth asking again where nothing can be moved now."""


class Prospects:
    """What every device would have to give if all that may be moved were. One for a tick."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._possible = {place: room.free + room.coming for place, room in site.rooms.items()}
        self._fixed = {place: Counter(room.staying) for place, room in site.rooms.items()}
        self._best_first: list[Room] | None = None
        for replica in (*_all(site.live), *_all(site.asleep)):
            if self._moves(replica.model, busy=_has_work(site, replica)):
                active = replica.state is not ReplicaState.SLEEPING or replica.heading is ReplicaState.READY
                self._release(site.rooms_of(replica), replica.model, held(replica), active=active)
        for reservation in site.reservations:
            if self._moves(reservation.model, busy=True):
                places = (Place(reservation.node, device) for device in reservation.devices)
                rooms = [site.rooms[place] for place in places if place in site.rooms]
                self._release(rooms, reservation.model, reservation.mib, active=True)

    def booked(self, model: Model, spot: Spot) -> None:
        """Take note of room given to a model that will not move again."""
        if not self._moves(model.id, busy=True):
            for room in spot.rooms:
                self._possible[room.place] -= spot.mib
                self._fixed[room.place][model.id] += 1
            self._best_first = None

    def of(self, model: Model) -> Explanation:
        """Explain why `model` gets no room in this tick."""
        if not self._could_hold(model):
            return Explanation(outlook=Outlook.CANNOT_RUN, text=_cannot_run(self._site, model))
        fits = any(self._would_fit(model, need) for need in model.needs)
        if fits and not self._site.facts.automatic:
            text = "there is no room for it, and while the loader is off nothing is moved for it"
            return Explanation(outlook=Outlook.NO_CAPACITY, text=text, retry_after_s=RETRY_AFTER_S)
        if fits:
            return Explanation(outlook=Outlook.IN_TURN, text="other models are using the devices; its turn will come")
        if not self._somebody_could(model):
            text = "no machine that could run it is heard of and well; see celerity status"
            demand, patience_s = self._site.demand(model.id), self._site.limits.machine_wait_s
            patient = demand.oldest_s < patience_s if demand.waiting else not demand.load
            if patient and self._somebody_is_silent():
                if demand.waiting:
                    self._site.look_again(self._site.now + patience_s - demand.oldest_s)
                return Explanation(outlook=Outlook.NO_MACHINE, text=text)
            return Explanation(outlook=Outlook.NO_CAPACITY, text=text, retry_after_s=RETRY_AFTER_S)
        text = "no device can be freed for it now: what holds them is pinned, exclusive and busy, or not ours"
        return Explanation(outlook=Outlook.NO_CAPACITY, text=text, retry_after_s=RETRY_AFTER_S)

    def _would_fit(self, model: Model, need: Need) -> bool:
        if self._best_first is None:
            self._best_first = sorted(self._site.rooms.values(), key=lambda room: -self._possible[room.place])
        among = takewhile(lambda room: self._possible[room.place] >= need.mib, self._best_first)
        return any(
            sum(self._could_take(model, room, need.mib) for room in rooms) >= need.devices
            for rooms in groups(self._site, model, need, among)
        )

    def _somebody_could(self, model: Model) -> bool:
        """Say whether one of those who are there now could hold it if it were empty."""
        return any(
            sum(room.total >= need.mib and room.takes(model) for room in rooms) >= need.devices
            for need in model.needs
            for rooms in groups(self._site, model, need, self._site.rooms.values())
        )

    def _somebody_is_silent(self) -> bool:
        nodes = self._site.facts.nodes
        return not nodes or not all(node.heard for node in nodes)

    def _could_take(self, model: Model, room: Room, mib: int) -> bool:
        fixed = self._fixed[room.place]
        rivals = {other for other, n in fixed.items() if n > 0 and other != model.id}
        if not (room.one_model or model.exclusive):
            rivals &= room.lone_models
        return self._possible[room.place] >= mib and not rivals and fixed.total() < room.slots and room.takes(model)

    def _moves(self, model_id: str, *, busy: bool) -> bool:
        """Say whether a replica of the model may be moved at some time; an exclusive one while it is idle only."""
        site = self._site
        model = site.models.get(model_id)
        if model is None:
            return True
        kept = model.pinned or model_id in site.guarded or max(1, site.count(model_id)) <= site.floor(model)
        return not kept and not (model.exclusive and busy)

    def _release(self, rooms: Sequence[Room], model: str, mib: int, *, active: bool) -> None:
        for room in rooms:
            self._possible[room.place] += mib
            self._fixed[room.place][model] -= active

    def _could_hold(self, model: Model) -> bool:
        """Say whether the devices there are, well or not, free or not, could hold it. None yet: they may come."""
        devices = self._site.facts.devices
        if not model.needs and any(device.total_mib is None for device in devices):
            return True  # nobody can tell while a driver is silent
        return not devices or any(_holds(self._site, model, need) for need in model.needs)


def _all(replicas: Mapping[str, Sequence[Replica]]) -> Iterator[Replica]:
    for some in replicas.values():
        yield from some


def _has_work(site: Site, replica: Replica) -> bool:
    starting = replica.state is ReplicaState.STARTING
    return replica.in_flight > 0 or starting or site.demand(replica.model).waiting > 0


def _holds(site: Site, model: Model, need: Need, *, anywhere: bool = False) -> bool:
    """Say whether some node has the devices for `need`; memory that is not known may be enough.

    `anywhere` takes in those that the operator keeps the model from.
    """
    able: Counter[str] = Counter()
    for device in site.facts.devices:
        large = device.total_mib is None or device.total_mib >= need.mib
        allowed = anywhere or site.may_be_on(model, Place(device.node, device.id))
        if large and device.kind is need.kind and allowed:
            able[device.node] += 1
            if able[device.node] >= need.devices:
                return True
    return False


def _cannot_run(site: Site, model: Model) -> str:
    if not model.needs:
        return "the engine cannot run this model; see celerity doctor"
    if any(_holds(site, model, need, anywhere=True) for need in model.needs):
        return "models.yaml keeps it from every device that could hold it (`devices:`); see celerity doctor"
    need = model.needs[0]
    many = f"{need.devices} {need.kind} devices of one machine" if need.devices > 1 else f"one {need.kind} device"
    return f"it needs {need.mib} MiB on {many}, and no machine has that; see celerity doctor"

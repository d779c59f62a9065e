"""How much of a device can be given away: now, and once what is leaving has left.

Memory is free once a process is gone, not once it was told to go. What can be given away
is the smaller of two figures: what was measured as free, less what replicas may still take
of it; and the total, less what is reserved by ours. The first knows of foreign processes,
the second of replicas that have not taken yet what they will.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.devices import DeviceKind
from workers.placement.facts import Device, Model, Place, Replica
from workers.placement.hosts import Host
from workers.replicas import ReplicaState

_UNLIMITED = 1 << 30


@dataclass(slots=True, eq=False, kw_only=True)
class Room:
    """One device that is known and well. The books of one tick: what is decided is entered at once."""

    place: Place
    kind: DeviceKind
    host: Host
    total: int
    free: int
    """Negative where more is spoken for than is free yet."""
    coming: int = 0
    """What those that leave will give back."""
    slots: int = _UNLIMITED
    one_model: bool = False
    only: frozenset[str] | None = None
    """The models that may be placed here; None: any."""
    lone_models: frozenset[str] = frozenset()
    """The models that want their device for themselves."""
    staying: dict[str, int] = field(default_factory=dict)
    """Active replicas by model."""
    leaving: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, device: Device, host: Host, lone_models: frozenset[str], only: frozenset[str] | None) -> Room | None:
        """Return the room of a device without any of our replicas, or None where nothing may be placed."""
        if not device.healthy or device.free_mib is None or device.total_mib is None:
            return None
        return cls(
            place=Place(device.node, device.id),
            kind=device.kind,
            host=host,
            total=device.total_mib,
            free=device.free_mib,
            slots=_UNLIMITED if device.slots is None else device.slots,
            one_model=device.exclusive,
            only=only,
            lone_models=lone_models,
        )

    def takes(self, model: Model) -> bool:
        """Say whether `model` may ever be here."""
        return (self.only is None or model.id in self.only) and (not model.places or self.place in model.places)

    def fits(self, model: Model, mib: int) -> bool:
        return (
            self.free >= mib
            and sum(self.staying.values()) + sum(self.leaving.values()) < self.slots
            and self._together(model, (*self.staying, *self.leaving))
            and self.takes(model)
        )

    def will_fit(self, model: Model, mib: int) -> bool:
        """Say whether it fits once everything that leaves has left."""
        return (
            self.free + self.coming >= mib
            and sum(self.staying.values()) < self.slots
            and self._together(model, tuple(self.staying))
            and self.takes(model)
        )

    def in_the_way(self, model: Model) -> set[str]:
        """Return the models that stay here and cannot be active beside `model`."""
        others = {other for other in self.staying if other != model.id}
        if self.one_model or model.exclusive:
            return others
        return others & self.lone_models

    def enter(self, model: str, mib: int, *, active: bool = True) -> None:
        self.free -= mib
        if active:
            self.staying[model] = self.staying.get(model, 0) + 1

    def leave(self, model: str, mib: int, *, active: bool = True) -> None:
        """Book that a replica which entered was told to go, or to sleep, and gives back `mib` then."""
        self.coming += mib
        if active:
            self.leaving[model] = self.leaving.get(model, 0) + 1
            self.staying[model] -= 1
            if not self.staying[model]:
                del self.staying[model]

    def _together(self, model: Model, others: tuple[str, ...]) -> bool:
        for other in others:
            if other != model.id and (self.one_model or model.exclusive or other in self.lone_models):
                return False
        return True


def held(replica: Replica) -> int:
    """What is reserved for it on each of its devices."""
    asleep = replica.state is ReplicaState.SLEEPING and replica.heading is not ReplicaState.READY
    return replica.sleep_mib if asleep else replica.mib


def untaken(replica: Replica, measured_at: float) -> int:
    """Return what it may still take of the memory that was measured as free at `measured_at`."""
    reserved = held(replica)
    if replica.used_mib is not None:
        return max(0, reserved - replica.used_mib)
    if replica.state is ReplicaState.STARTING:
        return reserved
    if replica.state is ReplicaState.SLEEPING:
        return max(0, reserved - replica.sleep_mib)
    return reserved if (replica.ready_at or 0.0) > measured_at else 0

"""Nodes, devices and the processes on them, as far as the planner can tell a simulated one from a real one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from workers.devices import DeviceKind
from workers.placement.actions import Drain, Sleep, Stop, Wake
from workers.placement.facts import Device, LoadFailures, Model, Node, Place, Replica
from workers.placement.reliability import Reliability
from workers.replicas import ReplicaState

ENDING = (ReplicaState.DRAINING, ReplicaState.STOPPED, ReplicaState.FAILED)
GOES_TO = {
    Drain: ReplicaState.DRAINING,
    Stop: ReplicaState.STOPPED,
    Sleep: ReplicaState.SLEEPING,
    Wake: ReplicaState.READY,
}
"""Where each order sends a replica."""


@dataclass(slots=True, eq=False)
class Request:
    model: str
    arrived_at: float
    service_s: float
    bulk: bool = False
    taken_at: float | None = None
    done_at: float | None = None


@dataclass(slots=True, eq=False)
class Card:
    """One device. `used` is what processes really hold."""

    place: Place
    kind: DeviceKind
    total_mib: int
    foreign_mib: int = 0
    used_mib: int = 0
    healthy: bool = True
    options: dict[str, object] = field(default_factory=dict)
    """Further fields of its `Device` fact."""

    def fact(self, now: float) -> Device:
        return Device(
            node=self.place.node,
            id=self.place.device,
            kind=self.kind,
            total_mib=self.total_mib,
            free_mib=max(0, self.total_mib - self.foreign_mib - self.used_mib),
            measured_at=now,
            healthy=self.healthy,
            **self.options,  # type: ignore[arg-type]  # a test says which
        )


@dataclass(slots=True, eq=False)
class Machine:
    """One node and what its agent knows."""

    id: str
    alive: bool = True
    reliability: Reliability = field(default_factory=Reliability)
    loads: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    ram_free_mib: int | None = None

    def fact(self) -> Node:
        return Node(
            id=self.id,
            healthy=self.alive,
            reliability=self.reliability,
            loads=tuple(self.loads),
            ram_free_mib=self.ram_free_mib,
        )


@dataclass(slots=True, eq=False)
class Process:
    """One replica."""

    id: str
    model: Model
    slot: int
    cards: tuple[Card, ...]
    mib: int
    started_at: float
    state: ReplicaState = ReplicaState.STARTING
    ready_at: float | None = None
    slept_at: float | None = None
    last_used_at: float | None = None
    running: set[Request] = field(default_factory=set)
    told: ReplicaState | None = None
    told_at: float = 0.0
    holds_mib: int = 0
    can_sleep: bool = False
    falls_asleep: bool = False
    """It takes nothing new, and sleeps once it has finished what it has."""

    @property
    def node(self) -> str:
        return self.cards[0].place.node

    @property
    def free_seats(self) -> int:
        serves = self.state is ReplicaState.READY and not self.falls_asleep
        return self.model.seats - len(self.running) if serves else 0

    def hold(self, mib: int) -> None:
        """Take or give back memory of every card."""
        for card in self.cards:
            card.used_mib += mib - self.holds_mib
        self.holds_mib = mib

    @property
    def sleep_mib(self) -> int:
        return self.mib // 20 if self.can_sleep else 0

    def fact(self) -> Replica:
        return Replica(
            id=self.id,
            model=self.model.id,
            node=self.node,
            devices=tuple(card.place.device for card in self.cards),
            mib=self.mib,
            state=self.state,
            started_at=self.started_at,
            ready_at=self.ready_at,
            slept_at=self.slept_at,
            last_used_at=self.last_used_at,
            in_flight=len(self.running),
            seats=None if self.state is ReplicaState.STARTING else self.model.seats,
            slot=self.slot,
            used_mib=self.holds_mib,
            can_sleep=self.can_sleep,
            sleep_mib=self.sleep_mib,
            sleep_ram_mib=self.mib if self.can_sleep else 0,
            told=self.told,
            told_at=self.told_at,
        )


def failed_again(process: Process, known: LoadFailures | None, now: float) -> LoadFailures:
    """Return what is known of the failed loads of a model once `process` failed too."""
    return LoadFailures(
        model=process.model.id,
        count=1 + (known.count if known else 0),
        last_at=now,
        reason="it did not load",
        nodes=frozenset({process.node}) | (known.nodes if known else frozenset()),
    )

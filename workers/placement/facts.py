"""What the planner is told: models, what waits for them, replicas, devices, nodes.

All times are of one clock (Redis'), as Unix seconds; all memory is per device, in MiB.
A fact may be stale. Nothing here is decided upon but by `plan`, which sees all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.devices import DeviceKind
from workers.placement.limits import Limits
from workers.placement.reliability import Reliability
from workers.replicas import ReplicaState


class Place(NamedTuple):
    """One device of one node."""

    node: str
    device: str


@dataclass(frozen=True, slots=True)
class Need:
    """One way to run a replica: `mib` on each of `devices` devices of one node."""

    kind: DeviceKind
    mib: int
    devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    id: str
    needs: tuple[Need, ...]
    """Ways to run it, best first. None at all: it can run nowhere."""
    seats: int
    """Requests one replica answers at once; what a replica says of itself goes before this."""
    pinned: bool = False
    replicas_min: int = 0
    replicas_max: int = 1
    idle_ttl_s: float | None = 900.0
    exclusive: bool = False
    """No other model is active on its devices."""
    aliases: tuple[str, ...] = ()
    places: frozenset[Place] = frozenset()
    """The only devices it may be on, its replicas spread evenly over them; empty: any."""
    load_s: float = 30.0
    """What a load takes, as measured or else estimated: what a swap costs."""
    wake_s: float = 2.0
    """The same for waking a replica that sleeps."""

    @property
    def floor(self) -> int:
        """How many replicas it keeps whatever is asked for."""
        return max(self.replicas_min, 1 if self.pinned else 0)

    @property
    def ceiling(self) -> int:
        return max(self.replicas_max, self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of one model."""

    model: str
    interactive: int = 0
    """Requests in its queue."""
    bulk: int = 0
    interactive_oldest_s: float = 0.0
    bulk_oldest_s: float = 0.0
    last_request_at: float | None = None
    peak: int | None = None
    """The most requests that ran and waited at one time during the last `Limits.peak_window_s`; None: not
    known, for example because the loader has just started."""
    scaled_at: float | None = None
    """When a replica was last started or drained to change their number."""
    load: bool = False
    """An operator asked for it, and it has neither been ready nor failed since."""
    unload: bool = False
    """An operator asked for it to go, and neither an operator nor a request asked for it since."""

    @property
    def waiting(self) -> int:
        return self.interactive + self.bulk

    @property
    def oldest_s(self) -> float:
        """How long the oldest request has waited; 0 when none does."""
        interactive_s = self.interactive_oldest_s if self.interactive else 0.0
        return max(interactive_s, self.bulk_oldest_s if self.bulk else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica that is alive by its own word, or by its node's while it starts."""

    id: str
    model: str
    node: str
    devices: tuple[str, ...]
    mib: int
    """What it may take on each of its devices."""
    state: ReplicaState
    started_at: float
    ready_at: float | None = None
    """Since when it has been ready, or awake again."""
    slept_at: float | None = None
    last_used_at: float | None = None
    in_flight: int = 0
    seats: int | None = None
    """As it says itself; None: it has not spoken yet. An engine whose KV cache is full has no more than it
    answers now, or a replica more would look like one too many."""
    slot: int | None = None
    """Which of its model's replicas it is, for those that the loader started."""
    used_mib: int | None = None
    """What it held per device when the device's free memory was measured; None: not known."""
    can_sleep: bool = False
    sleep_mib: int = 0
    """What it keeps on each device while it sleeps."""
    sleep_ram_mib: int = 0
    """What it takes of its node's memory while it sleeps."""
    failures: int = 0
    """Requests it broke in a row."""
    told: ReplicaState | None = None
    """Where it was last told to go (draining, stopped, sleeping, ready)."""
    told_at: float = 0.0

    @property
    def heading(self) -> ReplicaState:
        """Where it is once it has done what it was told. What drains or is gone can go nowhere else."""
        if self.told is None or self.state in _ENDING:
            return self.state
        return self.told

    @property
    def idle_since(self) -> float:
        return max(self.started_at, self.ready_at or 0.0, self.last_used_at or 0.0)


_ENDING = (ReplicaState.DRAINING, ReplicaState.STOPPED, ReplicaState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Memory promised to a replica that was ordered. It counts until `expires_at`, or until the replica is seen."""

    replica: str
    model: str
    node: str
    devices: tuple[str, ...]
    mib: int
    slot: int
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    node: str
    id: str
    kind: DeviceKind
    total_mib: int | None
    """None: not known, and nothing is placed here."""
    free_mib: int | None
    """As measured, whoever holds the rest."""
    measured_at: float
    healthy: bool = True
    exclusive: bool = False
    """Only one model at a time is active here, whichever it is."""
    bound_to: str | None = None
    """A model or alias: nothing else is placed here. Void when there is no such name."""
    slots: int | None = None
    """How many replicas may be here at once; None: as many as the memory holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: str
    healthy: bool = True
    """Its agent was heard of lately, and can start and stop things."""
    heard: bool = True
    """Its agent was heard of lately, whatever it can do."""
    reliability: Reliability = field(default_factory=Reliability)
    loads: tuple[float, ...] = ()
    """When loads were begun there, during the last minute at least."""
    ram_free_mib: int | None = None
    """What sleeping replicas may still take of its memory; None: not known, and none is put to sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailures:
    """Loads of one model that failed since one went well."""

    model: str
    count: int
    last_at: float
    reason: str
    """For users: what went wrong, without paths."""
    permanent: bool = False
    """Trying again cannot help: the weights are broken, the architecture is unknown."""
    nodes: frozenset[str] = frozenset()
    """Where it failed; others are tried first."""
    given_up: bool = False
    """It has been marked as failed."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """An alias that moves from one build to another."""

    alias: str
    desired: str
    previous: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    models: Sequence[Model]
    demands: Sequence[Demand] = ()
    replicas: Sequence[Replica] = ()
    devices: Sequence[Device] = ()
    nodes: Sequence[Node] = ()
    reservations: Sequence[Reservation] = ()
    failures: Sequence[LoadFailures] = ()
    rollouts: Sequence[Rollout] = ()
    automatic: bool = True
    """False is the kill switch: only what an operator orders is done, and nothing is moved for it."""
    limits: Limits = field(default_factory=Limits)

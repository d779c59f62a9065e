"""Which nodes may begin another load now.

In this order: it can and it is well; it can be relied on; it is not loading too much
already. A node that cannot be relied on may try one load now and then, so that it can
earn its trust back. That is for where others can be relied on: to bar the only node
there is would make an outage of one crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from workers.placement.facts import Node
from workers.placement.limits import Limits


class Gate(IntEnum):
    """In order of preference."""

    CLOSED = 0
    PROBE = 1
    OPEN = 2


@dataclass(slots=True, eq=False)
class Host:
    """One node and what it loads. The books of one tick."""

    id: str
    gate: Gate
    loads_left: int
    """How many more loads may begin there in this tick."""
    ram_left: int | None
    """MiB that sleeping replicas may take; None: not known."""
    healthy: bool = True
    trusted: bool = True
    """Whether it gets loads as others do: it can be relied on, or nobody else can be in its place."""

    @property
    def open_soon(self) -> bool:
        """It is closed for no other reason than that it is loading enough already."""
        return self.gate is Gate.CLOSED and self.healthy and self.trusted

    @classmethod
    def of(cls, node: Node, loading: int, limits: Limits, now: float, *, replaceable: bool = True) -> Host:
        """Return `node` as it stands with `loading` loads under way."""
        lately = sum(at > now - 60.0 for at in node.loads)
        left = min(limits.loads_at_once - loading, limits.loads_per_minute - lately) if node.healthy else 0
        gate = Gate.OPEN
        trusted = node.reliability.trusted(now)
        if not trusted:
            gate = Gate.PROBE
        if not trusted and replaceable:
            tried = max(node.loads, default=float("-inf"))
            left = min(left, 1 if loading == 0 and now - tried >= limits.probe_every_s else 0)
        gate = gate if left > 0 else Gate.CLOSED
        return cls(node.id, gate, left, node.ram_free_mib, node.healthy, trusted or not replaceable)

    def begin_load(self) -> None:
        self.loads_left -= 1
        if self.loads_left <= 0:
            self.gate = Gate.CLOSED

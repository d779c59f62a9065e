"""What a node agent has to do: the orders of its node against what really runs there. Pure.

Level-triggered, as the planner is: whatever was missed while no agent ran is seen at the
next look, and what was done already is not done again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tasks.orders import Order
from workers.replicas import ReplicaState

# Beyond its drain a process may need this long to give its memory back.
AFTER_DRAIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A replica that was launched on this node, whether it still runs or not."""

    replica: str
    model: str
    started_at: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    order: Order


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask it to finish what it has, and to end."""

    replica: str


@dataclass(frozen=True, slots=True)
class Kill:
    replica: str


@dataclass(frozen=True, slots=True)
class Bury:
    """It has ended: note how, and forget it and its order."""

    replica: str
    model: str
    asked: bool
    """Whether it was told to end."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """It runs, and nobody has ordered it: a predecessor started it, or Redis has forgotten the order."""

    running: Running


@dataclass(frozen=True, slots=True)
class Void:
    """The order leads to nothing: it came too late, or its replica is gone without a trace."""

    order: Order


Step = Launch | Terminate | Kill | Bury | Adopt | Void

_ENDING = (ReplicaState.DRAINING, ReplicaState.STOPPED)


def agenda(
    orders: Sequence[Order], running: Sequence[Running], asked: Collection[str], now: float, *, drain_s: float
) -> Iterator[Step]:
    """Yield the steps that are due. `asked` are the replicas that were asked to end by us before.

    1. What has ended is buried.
    2. What runs without an order is adopted.
    3. What is to end is asked to once, and killed when it takes too long.
    4. What is to start is launched, unless the order is void by now.
    5. Any other order without a replica is void.
    """
    of = {order.replica: order for order in orders}
    for it in running:
        order = of.pop(it.replica, None)
        ending = order is not None and order.told in _ENDING
        if it.ended:
            yield Bury(it.replica, it.model, asked=ending or it.replica in asked)  # 1
        elif order is None:
            yield Adopt(it)  # 2
        elif ending:
            yield from _end(order, asked, now, drain_s)  # 3
    for order in of.values():
        if order.told is ReplicaState.STARTING and now < order.void_at:
            yield Launch(order)  # 4
        else:
            yield Void(order)  # 5


def _end(order: Order, asked: Collection[str], now: float, drain_s: float) -> Iterator[Step]:
    if now - order.told_at > drain_s + AFTER_DRAIN_S:
        yield Kill(order.replica)
    elif order.replica not in asked:
        yield Terminate(order.replica)

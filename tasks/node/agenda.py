"""What a node agent has to do: the orders of its node against what really runs there. Pure.

Level-triggered, as the planner is: whatever was missed while no agent ran is seen at the
next look, and what was done already is not done again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tasks.records.orders import Order
from workers.replicas import ReplicaState

# Beyond its drain a process may need this long to give its memory back.
AFTER_DRAIN_S = 15.0
# A worker says who and where it is this long after its start, however slowly it loads.
SPEAKS_WITHIN_S = 30.0

# A replica, and which order to sleep or to wake it was told (its `told_at`); None: it was asked to end.
Asked = tuple[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A replica that was launched on this node, whether it still runs or not."""

    replica: str
    model: str
    started_at: float
    ended: bool = False
    state: ReplicaState | None = None
    """By its own word; None: it has not spoken yet."""


@dataclass(frozen=True, slots=True)
class Launch:
    order: Order


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask it to finish what it has, and to end."""

    replica: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell it to fall asleep or to wake."""

    order: Order


@dataclass(frozen=True, slots=True)
class Kill:
    replica: str


@dataclass(frozen=True, slots=True)
class Bury:
    """It has ended: note how, and forget it and its order."""

    replica: str
    model: str
    asked: bool
    """Whether it was told to end, as far as is known."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """It runs, and nobody has ordered it: a predecessor started it, or Redis has forgotten the order."""

    running: Running


@dataclass(frozen=True, slots=True)
class Void:
    """The order leads to nothing: it came too late, or its replica is gone without a trace."""

    order: Order


Step = Launch | Terminate | Tell | Kill | Bury | Adopt | Void

_ENDING = (ReplicaState.DRAINING, ReplicaState.STOPPED)
_TOLD = (ReplicaState.SLEEPING, ReplicaState.READY)


def settled(orders: Sequence[Order], running: Sequence[Running]) -> bool:
    """Say whether all that is ordered is so, and nothing else runs: then nothing changes by itself."""
    states = {it.replica: None if it.ended else it.state for it in running}
    return states.keys() == {order.replica for order in orders} and all(
        _stands(order, states[order.replica]) for order in orders
    )


def _stands(order: Order, state: ReplicaState | None) -> bool:
    return state in _TOLD and order.told in (state, ReplicaState.STARTING)


def agenda(
    orders: Sequence[Order], running: Sequence[Running], asked: Collection[Asked], now: float, *, drain_s: float
) -> Iterator[Step]:
    """Yield the steps that are due. `asked` is what replicas were asked by us before.

    1. What has ended is buried. Without an order it was being buried already, or nobody knows why it ended.
    2. What runs without an order is adopted, once it has said where it runs, or has been silent for long.
    3. What is to end is asked to once, and killed when it takes too long.
    4. What is to sleep or to wake, and does not yet, is told so once for each order.
    5. What is to start is launched, unless the order will soon be void.
    6. Any other order without a replica is void.
    """
    of = {order.replica: order for order in orders}
    for it in running:
        order = of.pop(it.replica, None)
        ending = order is not None and order.told in _ENDING
        if it.ended:
            yield Bury(it.replica, it.model, asked=ending or order is None or (it.replica, None) in asked)  # 1
        elif order is None:
            if it.state is not None or now - it.started_at > SPEAKS_WITHIN_S:
                yield Adopt(it)  # 2
        elif ending:
            yield from _end(order, asked, now, drain_s)  # 3
        elif order.told in _TOLD and it.state not in (None, order.told) and (it.replica, order.told_at) not in asked:
            yield Tell(order)  # 4
    for order in of.values():
        if order.told is ReplicaState.STARTING and now < order.void_at:
            if now < order.launch_by:
                yield Launch(order)  # 5
        else:
            yield Void(order)  # 6


def _end(order: Order, asked: Collection[Asked], now: float, drain_s: float) -> Iterator[Step]:
    if now - order.told_at > drain_s + AFTER_DRAIN_S:
        yield Kill(order.replica)
    elif (order.replica, None) not in asked:
        yield Terminate(order.replica)

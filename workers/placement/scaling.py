"""How many replicas a model should have, from what is asked of it and the seats it has.

Up: another replica only when work has waited for it, or a whole replica's seats are asked
for, and never one a request. Down: one at a time, when the others would have held the
recent peak easily. Up and down so far apart, with a pause between two changes, a steady
load settles on one number.
"""

from __future__ import annotations

from collections.abc import Iterator

from workers.placement.facts import Demand, Model, Replica
from workers.placement.site import Site
from workers.replicas import ReplicaState


def wanted(site: Site, model: Model) -> int:
    """Return how many replicas `model` should have, at most its `ceiling`.

    1. What an operator unloaded, and nobody has asked for since, should have none.
    2. Its floor; one, if an operator loads it.
    3. Nothing is up and work waits: as many as that work fills, at least one.
    4. More asked for than seats: what has waited long enough, or fills a replica, gets more.
    5. Seats are free and yet a request waits for long: one more, with pauses.
    """
    demand = site.demand(model.id)
    if demand.unload and not demand.waiting:
        return 0
    least = max(site.floor(model), int(demand.load))
    if not demand.waiting:
        return least
    have = site.count(model.id)
    if not have:
        return min(max(least, _replicas_for(demand.waiting, model)), model.ceiling)
    return min(max(least, have + _more(site, model, demand)), model.ceiling)


def surplus(site: Site) -> Iterator[tuple[Replica, str, bool]]:
    """Yield the replicas that should go, why, and whether they are to end even where they could sleep.

    None of them has work in flight, unless an operator wants its model gone. With the kill
    switch on, only that is a reason.
    """
    for id_, live in site.live.items():
        model, demand = site.models.get(id_), site.demand(id_)
        if demand.unload and not demand.waiting:
            yield from ((replica, "unloaded by an operator", True) for replica in live)
        elif not site.facts.automatic:
            continue
        elif model is None:
            yield from ((replica, "its model is no longer served", True) for replica in live)
        elif id_ not in site.guarded and not demand.waiting and not demand.load:
            for replica, why in _unneeded(site, model, demand):
                yield replica, why, id_ in site.superseded


def overslept(site: Site) -> Iterator[tuple[Replica, str]]:
    """Yield the sleeping replicas that should end."""
    for id_, asleep in site.asleep.items():
        demand = site.demand(id_)
        for replica in asleep:
            if demand.unload and not demand.waiting:
                yield replica, "unloaded by an operator"
            elif not site.facts.automatic:
                continue
            elif id_ not in site.models:
                yield replica, "its model is no longer served"
            elif id_ not in site.guarded and not demand.waiting and _slept_s(site, replica) > site.limits.sleep_ttl_s:
                yield replica, "asleep for too long"


def worst_first(replica: Replica) -> tuple[int, float, str]:
    """Order replicas by who is missed least: one that fails, then the one unused for longest."""
    return (-replica.failures, replica.idle_since, replica.id)


def _replicas_for(requests: int, model: Model) -> int:
    return -(-requests // max(1, model.seats))


def _more(site: Site, model: Model, demand: Demand) -> int:
    limits = site.limits
    live = site.live[model.id]
    seats = sum(_seats(model, replica) for replica in live)
    seats += site.promised[model.id] * model.seats
    short = demand.waiting + sum(replica.in_flight for replica in live) - seats
    if short > 0:
        pressing = demand.oldest_s >= limits.scale_up_after_s or demand.waiting >= model.seats
        return _replicas_for(short, model) if pressing else 0
    coming = site.promised[model.id] or any(replica.state is not ReplicaState.READY for replica in live)
    slow = demand.interactive > 0 and demand.interactive_oldest_s >= limits.slow_after_s
    return int(slow and not coming and _rested(site, demand))


def _rested(site: Site, demand: Demand) -> bool:
    return demand.scaled_at is None or site.now - demand.scaled_at >= site.limits.cooldown_s


def _unneeded(site: Site, model: Model, demand: Demand) -> Iterator[tuple[Replica, str]]:
    """Yield what can go of a model for which nothing waits.

    1. All but its floor, when nobody has used it for its time to live.
    2. Those above its ceiling.
    3. One, when the others would have held the recent peak.
    """
    live, floor = site.live[model.id], site.floor(model)
    idle = sorted((r for r in site.ready(model.id) if r.in_flight == 0), key=worst_first)
    ttl_s = float("inf") if model.idle_ttl_s is None else model.idle_ttl_s
    superseded = model.id in site.superseded
    if superseded:
        ttl_s = min(ttl_s, site.limits.rollout_settle_s)
    used_at = max([demand.last_request_at or 0.0, *(replica.idle_since for replica in live)])
    if len(idle) == len(live) and site.now - used_at > ttl_s:
        why = "replaced by the build its alias means now" if superseded else f"unused for {ttl_s:g} s"
        yield from ((replica, why) for replica in idle[: max(0, len(live) - floor)])  # 1
    elif (above := len(live) - model.ceiling) > 0:
        yield from ((replica, "more than replicas.max") for replica in idle[:above])  # 2
    elif idle and len(live) > max(1, floor) and demand.peak is not None and _rested(site, demand):
        seats = sum(_seats(model, replica) for replica in live if replica is not idle[0])
        if demand.peak <= seats * site.limits.scale_down_load and _settled(site, idle[0]):
            yield idle[0], "the others are enough"  # 3


def _seats(model: Model, replica: Replica) -> int:
    return model.seats if replica.seats is None else replica.seats


def _settled(site: Site, replica: Replica) -> bool:
    return site.now - (replica.ready_at or replica.started_at) >= site.limits.cooldown_s


def _slept_s(site: Site, replica: Replica) -> float:
    return site.now - (replica.started_at if replica.slept_at is None else replica.slept_at)

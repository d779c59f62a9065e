"""What follows from orders that were given before, whatever else is decided.

Orders get lost: the loader may die between writing one down and sending it. So one that was
not followed for a while is given again; what it asks for was decided already.
"""

from __future__ import annotations

from collections.abc import Iterator

from workers.placement import backoff
from workers.placement.actions import Action, Drain, MarkFailed, Sleep, Stop, Wake
from workers.placement.facts import Replica
from workers.placement.site import Site
from workers.replicas import ReplicaState


def standing(site: Site) -> Iterator[Action]:
    """Yield what is due without any new decision.

    1. An order that was not followed in time is repeated.
    2. A replica that has drained, and has nothing left, is stopped.
    3. A replica that does not become ready is stopped.
    4. A model whose loads keep failing is given up.
    """
    for replica in site.replicas:
        if (action := _due(site, replica)) is not None:
            yield action
    for failures in site.facts.failures:
        if not failures.given_up and backoff.hopeless(failures, site.limits):
            yield MarkFailed(model=failures.model, reason=failures.reason)


def _due(site: Site, replica: Replica) -> Action | None:
    told, state = replica.told, replica.state
    # Only what it says of itself: it may have taken work after it was told, and before it heard.
    drained = state is ReplicaState.DRAINING and replica.in_flight == 0
    if told is ReplicaState.STOPPED or drained:
        if told is ReplicaState.STOPPED and not _overdue(site, replica):
            return None
        return Stop(replica.id, "drained" if drained else "was told to stop")
    if told is not None and told is not state and state is not ReplicaState.DRAINING:
        return _again(replica) if _overdue(site, replica) else None
    late = state is ReplicaState.STARTING and site.now - replica.started_at > site.limits.load_timeout_s
    if late and replica in site.live[replica.model]:
        return site.stop(replica, f"not ready after {site.limits.load_timeout_s:g} s")
    return None


def _overdue(site: Site, replica: Replica) -> bool:
    return site.now - replica.told_at >= site.limits.order_again_s


def _again(replica: Replica) -> Action | None:
    why = "ordered before"
    match replica.told:
        case ReplicaState.DRAINING:
            return Drain(replica.id, why)
        case ReplicaState.SLEEPING:
            return Sleep(replica.id, why)
        case ReplicaState.READY:
            return Wake(replica.id, why)
        case _:
            return None

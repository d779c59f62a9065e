"""Whether the loader can leave off looking for a while: nothing is asked for, nothing moves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tasks import keys
from tasks.queues import Priority, model_queue, queue_list
from tasks.records.nodes import DEAD_AFTER_S, Node
from workers.placement.actions import Outlook, Plan
from workers.placement.facts import Facts
from workers.replicas import ReplicaState

# So long nobody looks at what says nothing when it changes: a replica that has slept for long enough.
CALM_S = 15.0
_STILL = (ReplicaState.READY, ReplicaState.SLEEPING)


def calm_s(facts: Facts, decided: Plan, nodes: Iterable[Node], now: float) -> float:
    """Return for how long, from `now` on, only what `signs` tells, or a nudge, can make another tick worth it.

    0: whoever has one come every two seconds should go on.

    1. Something is done, comes, or is waited for.
    2. Something was due at a certain time.
    3. A replica would have been unused for its time to live.
    4. A machine would count as dead if it said nothing more.
    """
    replicas = {replica.id for replica in facts.replicas}
    if (
        decided.actions
        or any(explanation.outlook is not Outlook.SERVING for explanation in decided.explanations.values())
        or any(demand.waiting or demand.load for demand in facts.demands)
        or any(it.in_flight or it.state not in _STILL or it.heading is not it.state for it in facts.replicas)
        or any(reservation.replica not in replicas for reservation in facts.reservations)
    ):
        return 0.0  # 1
    due = [CALM_S]
    if decided.again_at is not None:
        due.append(decided.again_at - now)  # 2
    due += [left_s for left_s in _unused_in_s(facts, now) if left_s > 0]  # 3
    due += [DEAD_AFTER_S - node.heartbeat_age_s for node in nodes if node.healthy]  # 4
    return max(0.0, min(due))


def _unused_in_s(facts: Facts, now: float) -> Iterator[float]:
    """Yield after how long each replica that nobody uses would have been unused for its time to live."""
    models = {model.id: model for model in facts.models}
    asked_at = {demand.model: demand.last_request_at or 0.0 for demand in facts.demands}
    for it in facts.replicas:
        if (model := models.get(it.model)) is not None and model.idle_ttl_s is not None:
            yield max(it.idle_since, asked_at.get(it.model, 0.0)) + model.idle_ttl_s - now


def signs(models: Iterable[str]) -> list[str]:
    """Return the keys of which none stands while nothing is asked of `models`. A wish comes with a nudge."""
    return [
        key
        for model in models
        for key in (*(queue_list(model_queue(model), level) for level in Priority), keys.asked(model))
    ]

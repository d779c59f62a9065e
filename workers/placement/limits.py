"""The numbers that the planner's decisions turn on. Seconds, unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Each default says what it balances; `CELERITY_` settings may override those that operators need."""

    age_limit_s: float = 45.0
    """A cold model whose oldest interactive request has waited so long may have busy replicas drained
    for it. With its load it must stay below the queue's `max_wait_s` (180)."""
    bulk_age_limit_s: float = 900.0
    """The same where only bulk work waits."""
    residency_loads: float = 0.25
    """How long an idle replica keeps its place, in times of what it takes to bring its model back."""
    turn_loads: float = 1.0
    """How long one with work keeps it from somebody who starves, in the same: with more work than
    seats all of them starve all the time, and would only be loaded. No longer than `age_limit_s`."""
    turn_s: float = 10.0
    """It keeps its place for at least so long."""
    scale_up_after_s: float = 5.0
    """More replicas for a model only when its oldest request waited so long, or a whole replica's seats are asked
    for."""
    slow_after_s: float = 15.0
    """A request this old although seats are free: the engine has no room for it (its KV cache is full)."""
    cooldown_s: float = 60.0
    """Between two changes of the number of a model's replicas; the first replica does not wait for it."""
    scale_down_load: float = 0.7
    """A replica goes when the others would have held the recent peak with so much of their seats taken."""
    peak_window_s: float = 120.0
    """What "recent" means there; whoever gathers the facts keeps `Demand.peak` over it."""
    sleep_ttl_s: float = 3600.0
    """How long an idle replica sleeps before it ends."""
    rollout_settle_s: float = 60.0
    """How long `previous` stays, unused, once `desired` is ready."""
    backoff_s: float = 5.0
    """After the first failed load; doubles with each."""
    backoff_max_s: float = 300.0
    give_up_after: int = 5
    """Failed loads in a row after which a model counts as failed."""
    growth_idle_s: float = 60.0
    """A model that is served already takes the place of others only where they were not used for so long,
    or once its own requests wait beyond the age limit."""
    loads_at_once: int = 2
    """On one node: loads share its disk and its cores."""
    loads_per_minute: int = 30
    """On one node: whatever else goes wrong, it does not load all the time."""
    load_timeout_s: float = 1800.0
    """A replica that is not ready after so long is stopped."""
    machine_wait_s: float = 30.0
    """How long a request waits for a machine to be heard of: an agent that was started again, or a Redis
    that came back empty, needs seconds; a machine that is gone needs somebody to see to it."""
    order_again_s: float = 15.0
    """An order that was not followed for so long is given again."""
    probe_every_s: float = 60.0
    """How often a node that is not trusted may try one load."""
    room_makers: int = 16
    """Models that room is made for in one tick, most urgent first; the next tick goes on."""

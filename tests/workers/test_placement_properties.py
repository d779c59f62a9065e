"""What holds for every plan, whatever the facts. Facts are drawn at random but could be real ones."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

from hypothesis import given, settings

from tests.workers.placement_drawn import TOTAL_MIB, sites
from tests.workers.placement_facts import NOW, recorded
from workers.devices import DeviceKind
from workers.placement.actions import Drain, Outlook, Sleep, Start, Stop, Wake
from workers.placement.facts import (
    Facts,
    Need,
    Place,
)
from workers.placement.plan import plan
from workers.replicas import ReplicaState as State

MANY = settings(max_examples=60, deadline=None, derandomize=True)


def reserved(facts: Facts) -> Counter[Place]:
    """Return what may be in use on each device, as far as it is ours."""
    found: Counter[Place] = Counter()
    for replica in facts.replicas:
        asleep = replica.state is State.SLEEPING and replica.heading is not State.READY
        for device in replica.devices:
            found[Place(replica.node, device)] += replica.sleep_mib if asleep else replica.mib
    for reservation in facts.reservations:
        for device in reservation.devices:
            found[Place(reservation.node, device)] += reservation.mib
    return found


def active(facts: Facts) -> dict[Place, Counter[str]]:
    """Return how many replicas of which models are on each device and not asleep."""
    found: dict[Place, Counter[str]] = defaultdict(Counter)
    for replica in facts.replicas:
        if replica.state is not State.SLEEPING or replica.heading is State.READY:
            for device in replica.devices:
                found[Place(replica.node, device)][replica.model] += 1
    for reservation in facts.reservations:
        for device in reservation.devices:
            found[Place(reservation.node, device)][reservation.model] += 1
    return found


@given(sites())
@MANY
def test_no_device_is_over_committed(facts: Facts) -> None:
    after = reserved(recorded(facts, plan(facts, NOW)))
    assert {place: mib for place, mib in after.items() if mib > TOTAL_MIB} == {}


@given(sites())
@MANY
def test_nothing_is_placed_in_memory_that_others_hold(facts: Facts) -> None:
    measured = {Place(device.node, device.id): device.free_mib for device in facts.devices}
    for action in plan(facts, NOW).actions:
        if isinstance(action, Start):
            for device in action.devices:
                assert action.mib <= (measured[Place(action.node, device)] or 0)


@given(sites())
@MANY
def test_every_start_is_one_that_the_model_and_the_devices_allow(facts: Facts) -> None:
    known = {model.id: model for model in facts.models}
    cards = {Place(device.node, device.id): device for device in facts.devices}
    healthy = {node.id for node in facts.nodes if node.healthy}
    for action in plan(facts, NOW).actions:
        if isinstance(action, Start):
            assert Need(DeviceKind.CUDA, action.mib, len(set(action.devices))) in known[action.model].needs
            assert action.node in healthy
            places = known[action.model].places
            for device in action.devices:
                assert not places or Place(action.node, device) in places
                bound = cards[Place(action.node, device)].bound_to
                allowed = {None, action.model, *known[action.model].aliases}
                allowed |= {
                    rollout.alias for rollout in facts.rollouts if action.model in (rollout.desired, rollout.previous)
                }
                names = {"a", *(alias for model in facts.models for alias in model.aliases)}
                names |= {rollout.alias for rollout in facts.rollouts}
                assert bound in allowed or bound not in names


@given(sites())
@MANY
def test_what_starts_has_a_slot_and_nobody_beside_it_that_it_cannot_be_active_with(facts: Facts) -> None:
    lone = {model.id for model in facts.models if model.exclusive}
    cards = {Place(device.node, device.id): device for device in facts.devices}
    done = plan(facts, NOW)
    there = active(recorded(facts, done))
    for start in done.actions:
        if isinstance(start, Start):
            for place in (Place(start.node, device) for device in start.devices):
                slots, models = cards[place].slots, there[place]
                assert slots is None or models.total() <= slots
                if cards[place].exclusive or lone & models.keys():
                    assert set(models) == {start.model}


@given(sites())
@MANY
def test_no_protected_replica_is_sent_away(facts: Facts) -> None:
    """Pinned ones never; with work in flight only for somebody who starves, drained; never while it loads."""
    known = {model.id: model for model in facts.models}
    there = {replica.id: replica for replica in facts.replicas}
    orders = {demand.model: demand for demand in facts.demands}
    for action in plan(facts, NOW).actions:
        if not isinstance(action, Drain | Stop | Sleep) or there[action.replica].told is not None:
            continue
        replica = there[action.replica]
        if orders[replica.model].unload and "operator" in action.why:
            continue
        if isinstance(action, Stop):
            assert replica.state is State.DRAINING
            assert replica.in_flight == 0
            continue
        assert replica.state in (State.READY, State.SLEEPING)
        if "making room" in action.why:
            assert not known[replica.model].pinned
        if replica.in_flight:
            assert isinstance(action, Drain)
            assert action.why.endswith("has waited for too long")
            assert not known[replica.model].exclusive


@given(sites())
@MANY
def test_no_model_falls_below_what_it_keeps(facts: Facts) -> None:
    known = {model.id: model for model in facts.models}
    unloaded = {demand.model for demand in facts.demands if demand.unload}
    left: Counter[str] = Counter()
    gone: dict[str, list[str]] = defaultdict(list)
    healthy = {node.id for node in facts.nodes if node.healthy}
    sent_away = {action.replica for action in plan(facts, NOW).actions if isinstance(action, Drain | Stop | Sleep)}
    for replica in facts.replicas:
        counts = replica.heading is State.READY or (replica.heading is State.STARTING and replica.node in healthy)
        if counts and replica.id in sent_away:
            gone[replica.model].append(replica.id)
        else:
            left[replica.model] += counts
    left.update(reservation.model for reservation in facts.reservations if reservation.node in healthy)
    for model in set(gone) - unloaded:
        assert left[model] >= known[model].floor, gone


@given(sites())
@MANY
def test_there_are_never_more_replicas_than_the_maximum(facts: Facts) -> None:
    healthy = {node.id for node in facts.nodes if node.healthy}
    live = Counter(
        replica.model
        for replica in facts.replicas
        if replica.heading is State.READY or (replica.heading is State.STARTING and replica.node in healthy)
    )
    live.update(reservation.model for reservation in facts.reservations if reservation.node in healthy)
    done = plan(facts, NOW).actions
    woken = {action.replica for action in done if isinstance(action, Wake)}
    more = Counter(action.model for action in done if isinstance(action, Start))
    more.update(replica.model for replica in facts.replicas if replica.id in woken and replica.told is None)
    for model in facts.models:
        assert not more[model.id] or live[model.id] + more[model.id] <= max(1, model.ceiling)


@given(sites())
@MANY
def test_what_was_ordered_is_not_ordered_again(facts: Facts) -> None:
    first = plan(facts, NOW)
    second = plan(recorded(facts, first), NOW)
    assert second.actions == ()


@given(sites())
@MANY
def test_the_kill_switch_starts_nothing_that_nobody_ordered(facts: Facts) -> None:
    ordered = {demand.model for demand in facts.demands if demand.load}
    found = plan(dataclasses.replace(facts, automatic=False), NOW).actions
    assert {action.model for action in found if isinstance(action, Start)} <= ordered
    assert [action for action in found if isinstance(action, Drain | Sleep) and "making room" in action.why] == []


@given(sites())
@MANY
def test_everybody_who_waits_learns_why(facts: Facts) -> None:
    done = plan(facts, NOW)
    ready = {replica.model for replica in facts.replicas if replica.state is State.READY}
    for demand in facts.demands:
        if demand.waiting:
            explanation = done.explanations[demand.model]
            assert explanation.text
            assert explanation.outlook is not Outlook.SERVING or demand.model in ready

"""What holds for every plan, whatever the facts. Facts are drawn at random but could be real ones."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.placement_facts import NOW, recorded
from workers.devices import DeviceKind
from workers.placement.actions import Drain, Outlook, Sleep, Start, Stop, Wake
from workers.placement.facts import (
    Demand,
    Device,
    Facts,
    LoadFailures,
    Model,
    Need,
    Node,
    Place,
    Replica,
    Reservation,
    Rollout,
)
from workers.placement.plan import plan
from workers.replicas import ReplicaState as State

NODES = ("n0", "n1", "n2")
CARDS = ("cuda:0", "cuda:1")
MODELS = ("a", "b", "c", "d")
TOTAL_MIB = 48_000
MANY = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def models(draw: st.DrawFn, id_: str) -> Model:
    size = st.sampled_from((4_000, 16_000, 30_000, 47_000))
    needs = draw(
        st.one_of(
            size.map(lambda mib: (Need(DeviceKind.CUDA, mib),)),
            size.map(lambda mib: (Need(DeviceKind.CUDA, mib, devices=2),)),
            size.map(lambda mib: (Need(DeviceKind.CUDA, mib), Need(DeviceKind.CUDA, mib // 2, devices=2))),
        )
    )
    low = draw(st.integers(0, 1))
    return Model(
        id=id_,
        needs=needs,
        seats=draw(st.integers(1, 8)),
        pinned=draw(st.booleans()),
        replicas_min=low,
        replicas_max=low + draw(st.integers(0, 3)),
        idle_ttl_s=draw(st.sampled_from((None, 30.0, 900.0))),
        exclusive=draw(st.booleans()),
        aliases=draw(st.sampled_from(((), ("x",)))),
        load_s=draw(st.sampled_from((1.0, 30.0))),
    )


@st.composite
def demands(draw: st.DrawFn, id_: str) -> Demand:
    return Demand(
        model=id_,
        interactive=draw(st.integers(0, 20)),
        bulk=draw(st.sampled_from((0, 0, 500))),
        interactive_oldest_s=draw(st.sampled_from((0.0, 3.0, 44.0, 60.0, 200.0))),
        bulk_oldest_s=draw(st.sampled_from((5.0, 1000.0))),
        last_request_at=draw(st.sampled_from((None, NOW - 5, NOW - 1000))),
        peak=draw(st.sampled_from((None, 0, 5))),
        scaled_at=draw(st.sampled_from((None, NOW - 10, NOW - 100))),
        load=draw(st.sampled_from((False, False, False, True))),
        unload=draw(st.sampled_from((False, False, False, True))),
    )


@st.composite
def sites(draw: st.DrawFn) -> Facts:
    known = [draw(models(id_)) for id_ in MODELS]
    room = {Place(node, device): TOTAL_MIB for node in NODES for device in CARDS}
    foreign = {place: draw(st.sampled_from((0, 0, 10_000))) for place in room}
    used: Counter[Place] = Counter()
    for place in room:
        room[place] -= foreign[place]
    replicas, reservations = [], []
    for n in range(draw(st.integers(0, 8))):
        model = draw(st.sampled_from(known))
        need = draw(st.sampled_from(model.needs))
        node = draw(st.sampled_from(NODES))
        devices = CARDS if need.devices == 2 else (draw(st.sampled_from(CARDS)),)
        places = [Place(node, device) for device in devices]
        if any(room[place] < need.mib for place in places):
            continue
        for place in places:
            room[place] -= need.mib
        if draw(st.sampled_from((False, False, True))):
            reservation = Reservation(
                replica=f"p{n}",
                model=model.id,
                node=node,
                devices=devices,
                mib=need.mib,
                slot=n,
                expires_at=NOW + 9,
            )
            reservations.append(reservation)
            continue
        replica = draw(_replica(f"r{n}", model, node=node, devices=devices, mib=need.mib))
        replicas.append(replica)
        if replica.state is not State.STARTING:
            for place in places:
                used[place] += replica.sleep_mib if replica.state is State.SLEEPING else replica.mib
    return Facts(
        models=known,
        demands=[draw(demands(id_)) for id_ in MODELS],
        replicas=replicas,
        reservations=reservations,
        devices=[
            Device(
                node=place.node,
                id=place.device,
                kind=DeviceKind.CUDA,
                total_mib=TOTAL_MIB,
                free_mib=draw(st.sampled_from((TOTAL_MIB - foreign[place] - used[place],) * 7 + (None,))),
                measured_at=NOW,
                exclusive=draw(st.sampled_from((False, False, True))),
                bound_to=draw(st.sampled_from((None, None, None, "x", "a"))),
                slots=draw(st.sampled_from((None, None, 1, 2))),
            )
            for place in room
        ],
        nodes=[
            Node(id=node, healthy=draw(st.sampled_from((True, True, True, False))), ram_free_mib=60_000)
            for node in NODES
        ],
        failures=[
            LoadFailures(model=id_, count=draw(st.sampled_from((1, 9))), last_at=NOW - 6, reason="x")
            for id_ in draw(st.sets(st.sampled_from(MODELS), max_size=1))
        ],
        rollouts=draw(st.sampled_from(((), (Rollout("x", "a", "b"),), (Rollout("x", "a", "b"), Rollout("y", "b"))))),
    )


@st.composite
def _replica(draw: st.DrawFn, id_: str, model: Model, *, node: str, devices: tuple[str, ...], mib: int) -> Replica:
    state = draw(st.sampled_from((State.STARTING, *[State.READY] * 3, State.SLEEPING, State.DRAINING)))
    told = draw(st.sampled_from((None, None, None, State.DRAINING))) if state is not State.DRAINING else None
    started_at = NOW - draw(st.sampled_from((3.0, 15.0, 600.0)))
    return Replica(
        id=id_,
        model=model.id,
        node=node,
        devices=devices,
        mib=mib,
        state=state,
        started_at=started_at,
        ready_at=None if state is State.STARTING else started_at + 1,
        slept_at=NOW - 2 if state is State.SLEEPING else None,
        last_used_at=NOW - draw(st.sampled_from((1.0, 500.0))),
        in_flight=draw(st.integers(0, model.seats)) if state in (State.READY, State.DRAINING) else 0,
        can_sleep=draw(st.booleans()),
        sleep_mib=mib // 20,
        sleep_ram_mib=mib,
        told=told,
        told_at=NOW - draw(st.sampled_from((1.0, 60.0))),
    )


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
            for device in action.devices:
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

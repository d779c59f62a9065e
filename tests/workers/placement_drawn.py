"""Facts for the planner, drawn at random: odd ones, but such as could be."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st

from tests.workers.placement_facts import NOW
from workers.devices import DeviceKind
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
from workers.replicas import ReplicaState as State

NODES = ("n0", "n1", "n2")
CARDS = ("cuda:0", "cuda:1")
MODELS = ("a", "b", "c", "d")
TOTAL_MIB = 48_000
# Where a model may be; empty: anywhere.
PLACES = (
    *[frozenset[Place]()] * 4,
    frozenset({Place("n0", "cuda:0")}),
    frozenset({Place("n1", "cuda:0"), Place("n1", "cuda:1"), Place("n2", "cuda:1")}),
    frozenset({Place("gone", "cuda:0")}),
)


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
        places=draw(st.sampled_from(PLACES)),
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

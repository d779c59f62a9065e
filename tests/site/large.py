"""The facts of a large site at one moment: a thousand replicas on two hundred nodes, and everybody wants something."""

from __future__ import annotations

import random

from tests.site.traffic import CARD_MIB
from workers.devices import DeviceKind
from workers.placement.facts import Demand, Device, Facts, Model, Need, Node, Place, Replica
from workers.replicas import ReplicaState

NOW = 10_000.0


def large_site(
    *, nodes: int = 200, replicas: int = 1000, models: int = 100, waiting: float = 0.3, busy: float = 0.7, seed: int = 0
) -> Facts:
    """Return a site on which `busy` of the replicas have work, and requests wait for `waiting` of the models."""
    rng = random.Random(seed)
    known = [_model(n, rng) for n in range(models)]
    free = {Place(f"n{n:03}", f"cuda:{card}"): CARD_MIB for n in range(nodes) for card in range(4)}
    up: list[Replica] = []
    # Bounded, for as many as asked for may not fit.
    for _ in range(20 * replicas):
        if len(up) == replicas:
            break
        model, node = rng.choice(known), f"n{rng.randrange(nodes):03}"
        need = model.needs[0]
        places = [Place(node, f"cuda:{card}") for card in rng.sample(range(4), need.devices)]
        if all(free[place] >= need.mib for place in places):
            for place in places:
                free[place] -= need.mib
            up.append(_replica(f"r{len(up)}", model, places, busy=rng.random() < busy, rng=rng))
    return Facts(
        models=known,
        demands=[_demand(model, waits=rng.random() < waiting, rng=rng) for model in known],
        replicas=up,
        devices=[
            Device(
                node=place.node,
                id=place.device,
                kind=DeviceKind.CUDA,
                total_mib=CARD_MIB,
                free_mib=mib,
                measured_at=NOW,
            )
            for place, mib in free.items()
        ],
        nodes=[Node(id=f"n{n:03}") for n in range(nodes)],
    )


def _model(n: int, rng: random.Random) -> Model:
    mib, devices = (40_000, 2) if n % 10 == 0 else (rng.choice((6_000, 12_000, 24_000, 40_000)), 1)
    return Model(id=f"m{n}", needs=(Need(DeviceKind.CUDA, mib, devices),), seats=64, replicas_max=40)


def _replica(id_: str, model: Model, places: list[Place], *, busy: bool, rng: random.Random) -> Replica:
    return Replica(
        id=id_,
        model=model.id,
        node=places[0].node,
        devices=tuple(place.device for place in places),
        mib=model.needs[0].mib,
        state=ReplicaState.READY,
        started_at=0.0,
        ready_at=30.0,
        last_used_at=rng.uniform(100.0, NOW),
        in_flight=rng.randrange(1, 64) if busy else 0,
        seats=64,
    )


def _demand(model: Model, *, waits: bool, rng: random.Random) -> Demand:
    return Demand(
        model=model.id,
        interactive=rng.randrange(1, 500) if waits else 0,
        interactive_oldest_s=rng.uniform(0.0, 90.0),
        last_request_at=NOW - 1,
        peak=200,
    )

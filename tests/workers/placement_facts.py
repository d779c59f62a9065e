"""Short ways to say what is there, for the tests of the planner: one node with two cards of 48 GB by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tests.site.machines import GOES_TO
from workers.devices import DeviceKind
from workers.placement.actions import Action, Drain, Explanation, MarkFailed, Plan, Sleep, Start, Stop, Wake
from workers.placement.facts import (
    Demand,
    Device,
    Facts,
    LoadFailures,
    Model,
    Need,
    Node,
    Replica,
    Reservation,
    Rollout,
)
from workers.placement.limits import Limits
from workers.placement.plan import plan
from workers.replicas import ReplicaState

NOW = 10_000.0
CARD_MIB = 48_000


def model(id_: str = "m", mib: int = 10_000, **fields: Any) -> Model:
    needs = fields.pop("needs", (Need(DeviceKind.CUDA, mib),))
    return Model(id=id_, needs=needs, **{"seats": 4, **fields})


def card(id_: str = "cuda:0", free_mib: int | None = CARD_MIB, **fields: Any) -> Device:
    defaults: dict[str, Any] = {"node": "n", "kind": DeviceKind.CUDA, "total_mib": CARD_MIB, "measured_at": NOW}
    return Device(id=id_, free_mib=free_mib, **{**defaults, **fields})


def replica(model_id: str = "m", id_: str | None = None, **fields: Any) -> Replica:
    """A ready one that has served for long, idle since the same time."""
    defaults: dict[str, Any] = {
        "node": "n",
        "devices": ("cuda:0",),
        "mib": 10_000,
        "state": ReplicaState.READY,
        "started_at": NOW - 5000,
        "ready_at": NOW - 4900,
        "last_used_at": NOW - 100,
        "seats": 4,
    }
    return Replica(id=id_ or f"{model_id}-1", model=model_id, **{**defaults, **fields})


def starting(model_id: str = "m", id_: str | None = None, **fields: Any) -> Replica:
    young = {"started_at": NOW - 5, "ready_at": None, "last_used_at": None, "seats": None}
    return replica(model_id, id_, state=ReplicaState.STARTING, **{**young, **fields})


def asked(model_id: str = "m", interactive: int = 1, oldest_s: float = 1.0, **fields: Any) -> Demand:
    age = {"interactive_oldest_s": oldest_s} if interactive else {}
    return Demand(model=model_id, interactive=interactive, last_request_at=NOW - oldest_s, **{**age, **fields})


def failed(model_id: str = "m", count: int = 1, ago_s: float = 0.0, **fields: Any) -> LoadFailures:
    return LoadFailures(model=model_id, count=count, last_at=NOW - ago_s, reason="out of memory", **fields)


def facts(
    models: Sequence[Model],
    *demands: Demand,
    replicas: Sequence[Replica] = (),
    devices: Sequence[Device] | None = None,
    **fields: Any,
) -> Facts:
    """Free memory that is not given is what the replicas leave of the card."""
    cards = [card("cuda:0"), card("cuda:1")] if devices is None else devices
    measured = [
        dataclasses.replace(device, free_mib=max(0, device.free_mib - _used(device, replicas)))
        if device.free_mib == device.total_mib and device.free_mib is not None
        else device
        for device in cards
    ]
    nodes = fields.pop("nodes", [Node(id=id_) for id_ in sorted({device.node for device in cards})])
    return Facts(models=models, demands=demands, replicas=replicas, devices=measured, nodes=nodes, **fields)


def _used(device: Device, replicas: Sequence[Replica]) -> int:
    return sum(
        one.sleep_mib if one.state is ReplicaState.SLEEPING else one.mib
        for one in replicas
        if one.node == device.node and device.id in one.devices and one.state is not ReplicaState.STARTING
    )


def planned(*args: Any, **kwargs: Any) -> Plan:
    return plan(facts(*args, **kwargs), NOW)


def actions(*args: Any, **kwargs: Any) -> list[Action]:
    return list(planned(*args, **kwargs).actions)


def explained(model_id: str, *args: Any, **kwargs: Any) -> Explanation:
    return planned(*args, **kwargs).explanations[model_id]


def starts(found: Sequence[Action]) -> list[tuple[str, tuple[str, ...]]]:
    """Which model was started on which devices, in order."""
    return [(action.model, action.devices) for action in found if isinstance(action, Start)]


def sent_away(found: Sequence[Action]) -> list[str]:
    """Which replicas have to leave their device, in order."""
    return [action.replica for action in found if isinstance(action, Drain | Stop | Sleep)]


def recorded(before: Facts, done: Plan, now: float = NOW) -> Facts:
    """Return the facts once the loader has written its orders down, and nobody has followed one yet."""
    told = {
        action.replica: GOES_TO[type(action)]
        for action in done.actions
        if isinstance(action, Drain | Stop | Sleep | Wake)
    }
    given_up = {action.model for action in done.actions if isinstance(action, MarkFailed)}
    promised = [
        Reservation(
            replica=f"new-{action.model}-{action.slot}",
            model=action.model,
            node=action.node,
            devices=action.devices,
            mib=action.mib,
            slot=action.slot,
            expires_at=now + 30,
        )
        for action in done.actions
        if isinstance(action, Start)
    ]
    return dataclasses.replace(
        before,
        replicas=[
            dataclasses.replace(one, told=told[one.id], told_at=now) if one.id in told else one
            for one in before.replicas
        ],
        reservations=[*before.reservations, *promised],
        failures=[dataclasses.replace(one, given_up=one.given_up or one.model in given_up) for one in before.failures],
    )


__all__ = [
    "CARD_MIB",
    "NOW",
    "Drain",
    "Limits",
    "Rollout",
    "Start",
    "actions",
    "asked",
    "card",
    "explained",
    "facts",
    "failed",
    "model",
    "planned",
    "recorded",
    "replica",
    "sent_away",
    "starting",
    "starts",
]

"""The ways in which a model could run on the devices of one machine, for the planner. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from workers.devices import Device, DeviceKind
from workers.estimate.needs import NeedUnknownError, estimate
from workers.model_folder import ModelFolder
from workers.placement.facts import Need
from workers.registry import ModelSpec


def ways(spec: ModelSpec, folder: ModelFolder | None, devices: Sequence[Device]) -> tuple[Need, ...]:
    """Return the ways, the best first; none when it cannot run here, or it cannot be told what it needs."""
    totals: dict[DeviceKind, int] = {}
    for device in devices:
        if device.total_mib is not None:
            totals[device.kind] = max(totals.get(device.kind, 0), device.total_mib)
    found: list[Need] = []
    for kind, total_mib in totals.items():
        try:
            need = estimate(spec, folder, kind, device_total_mib=total_mib)
        except NeedUnknownError:
            continue
        if need.problem is None:
            found += [Need(kind=kind, mib=mib, devices=need.devices) for mib in need.ways]
    return tuple(found)

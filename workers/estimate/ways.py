"""The ways in which a model could run on the devices of one machine, for the planner. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from workers.devices import Device, DeviceKind
from workers.estimate.measured import Measured
from workers.estimate.needs import Estimate, NeedUnknownError, estimate
from workers.model_folder import ModelFolder
from workers.placement.facts import Need
from workers.registry import ModelSpec

_NOTHING: Mapping[DeviceKind, Measured] = {}


def ways(
    spec: ModelSpec,
    folder: ModelFolder | None,
    devices: Sequence[Device],
    measured: Mapping[DeviceKind, Measured] = _NOTHING,
) -> tuple[Need, ...]:
    """Return the ways, the best first; none when it cannot run here, or it cannot be told what it needs."""
    return tuple(
        Need(kind=kind, mib=mib, devices=need.devices)
        for kind, need in estimates(spec, folder, devices, measured)
        if need.problem is None
        for mib in need.ways
    )


def estimates(
    spec: ModelSpec,
    folder: ModelFolder | None,
    devices: Sequence[Device],
    measured: Mapping[DeviceKind, Measured] = _NOTHING,
) -> Iterator[tuple[DeviceKind, Estimate]]:
    """Yield what is needed on each kind of device, as far as it can be told; the largest one stands for its kind."""
    totals: dict[DeviceKind, int] = {}
    for device in devices:
        if device.total_mib is not None:
            totals[device.kind] = max(totals.get(device.kind, 0), device.total_mib)
    for kind, total_mib in totals.items():
        try:
            yield kind, estimate(spec, folder, kind, device_total_mib=total_mib, measured=measured.get(kind))
        except NeedUnknownError:
            continue

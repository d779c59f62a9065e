"""Where on this machine a replica would fit, and why not. Pure: it is told what there is.

What the loader does may differ: it also knows what else is wanted, and what could make room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workers.devices import Device, DeviceKind
from workers.estimate.measured import Measured
from workers.estimate.needs import Estimate, NeedUnknownError, estimate, gpu_memory_utilization
from workers.layout import DevicePattern, Layout
from workers.model_folder import ModelFolder
from workers.registry import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One device, as the first of those that a replica would take."""

    device: Device
    need: Estimate | None
    """None when it cannot be told what the model needs."""
    fits: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What is known of this machine and of what was loaded before."""

    devices: Sequence[Device]
    node: str = ""
    measured: Mapping[DeviceKind, Measured] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)


def places(spec: ModelSpec, folder: ModelFolder | None, here: Here) -> list[Place]:
    return [_place(spec, folder, device, here) for device in here.devices]


def _place(spec: ModelSpec, folder: ModelFolder | None, device: Device, here: Here) -> Place:
    if device.unknown or device.total_mib is None or device.free_mib is None:
        return Place(device=device, need=None, fits=False, text=device.unknown or "its memory is not known")
    try:
        need = estimate(
            spec, folder, device.kind, device_total_mib=device.total_mib, measured=here.measured.get(device.kind)
        )
    except NeedUnknownError as error:
        return Place(device=device, need=None, fits=False, text=str(error))
    why = (
        need.problem
        or _kept_away(spec, device, here)
        or _too_small(need, device, device.total_mib, device.free_mib)
        or _too_few(need, device, here.devices)
    )
    return Place(
        device=device, need=need, fits=why is None, text=why or _how(need, device, device.total_mib, device.free_mib)
    )


def _kept_away(spec: ModelSpec, device: Device, here: Here) -> str | None:
    """Say what models.yaml has against it. An alias that a device is bound to is taken at its word."""
    patterns = [DevicePattern.parse(text) for text in spec.devices]
    if patterns and not any(pattern.matches(here.node, device.id) for pattern in patterns):
        return f"the model's `devices:` are {', '.join(spec.devices)}"
    bound_to = here.layout.use_of(here.node, device.id).bound_to
    if bound_to is not None and bound_to not in (spec.id, *spec.aliases):
        return f"`devices:` of models.yaml keeps it for {bound_to}"
    return None


def _too_small(need: Estimate, device: Device, total_mib: int, free_mib: int) -> str | None:
    if need.least_mib > total_mib:
        return f"it has {total_mib:,} MiB in all; {need.least_mib:,} are needed at the least"
    if need.least_mib > free_mib:
        return f"{free_mib:,} of {total_mib:,} MiB are free; {need.least_mib:,} are needed at the least"
    return None


def _too_few(need: Estimate, device: Device, devices: Sequence[Device]) -> str | None:
    able = [
        other
        for other in devices
        if other.kind is device.kind and other.free_mib is not None and other.free_mib >= need.least_mib
    ]
    if len(able) >= need.devices:
        return None
    return f"{need.devices} such devices are needed at once, and {len(able)} have {need.least_mib:,} MiB free"


def _how(need: Estimate, device: Device, total_mib: int, free_mib: int) -> str:
    given = need.mib if need.mib <= free_mib else free_mib
    parts = [f"{given:,} of {free_mib:,} MiB free"]
    if given < need.mib:
        parts.append("with a smaller KV cache than wanted")
    if device.kind is not DeviceKind.CPU and need.setup is not None:
        parts.append(f"gpu_memory_utilization {gpu_memory_utilization(given, total_mib)}")
    return ", ".join(parts)

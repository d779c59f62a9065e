"""What a model can be placed on. Data only; `workers.inventory` finds out what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class DeviceKind(StrEnum):
    CUDA = "cuda"
    ROCM = "rocm"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a GPU. `mib` is None where the driver does not say how much."""

    pid: int
    mib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device and its memory at one moment. For the CPU that is the memory we may use.

    Either both figures are known, or `unknown` says why not; nothing may be placed then.
    """

    id: str
    """Unique on its node: `cpu`, `cuda:1`, `rocm:0`, and `cuda:1:0` for the first MIG instance of GPU 1."""
    kind: DeviceKind
    total_mib: int | None
    free_mib: int | None
    name: str = ""
    uuid: str = ""
    """The driver's own name for it, which stays the same when numbers change; empty where there is none."""
    unknown: str = ""
    foreign: tuple[Holder, ...] | None = ()
    """Processes that are not ours and hold memory here, largest first; None when the driver would not say."""


def unknown(id_: str, kind: DeviceKind, why: str, *, name: str = "", uuid: str = "") -> Device:
    """Return a device that is there, and of whose memory nothing is known."""
    return Device(id=id_, kind=kind, total_mib=None, free_mib=None, name=name, uuid=uuid, unknown=why, foreign=None)


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables that make a process see these devices and no others.

    GPUs are named by their uuid: CUDA numbers them by speed unless it is told otherwise,
    NVML by their slot.
    """
    of = {kind: [device for device in devices if device.kind is kind] for kind in DeviceKind}
    visible = {}
    if of[DeviceKind.CUDA] or of[DeviceKind.CPU]:
        visible["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid or _number(device) for device in of[DeviceKind.CUDA])
        visible["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if of[DeviceKind.ROCM]:
        visible["ROCR_VISIBLE_DEVICES"] = ",".join(device.uuid or _number(device) for device in of[DeviceKind.ROCM])
    return visible


def _number(device: Device) -> str:
    return device.id.split(":")[1]

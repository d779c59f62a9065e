"""Which GPUs `CUDA_VISIBLE_DEVICES` leaves to this machine's replicas. NVML shows all of them whatever it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workers.devices import Device, unknown

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


def visible(devices: Sequence[Device], environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return those of `devices`, in NVML's order, that a CUDA program with `environ` would see.

    1. Not set: all. Set and empty: none.
    2. A uuid, or the unambiguous beginning of one, is that GPU or MIG instance.
    3. A number counts in CUDA's own order, which is the slots' only if `CUDA_DEVICE_ORDER`
       says so or all GPUs are alike. Where it is not, and where GPUs are cut into instances,
       nobody can say which one is meant: all are returned as unknown.
    4. As in CUDA, the list ends at the first entry that names nothing.
    """
    if (text := environ.get(VISIBLE)) is None:
        return tuple(devices)
    entries = [entry.strip() for entry in text.split(",")]
    if _ambiguous(devices, entries, environ):
        why = (
            f"{VISIBLE}={text} counts GPUs in an order that cannot be known here; "
            f"name them by uuid (`nvidia-smi -L`), or set {ORDER}=PCI_BUS_ID"
        )
        return tuple(unknown(it.id, it.kind, why, name=it.name, uuid=it.uuid) for it in devices)
    chosen = set()
    for entry in entries:
        if (device := _named(devices, entry)) is None:
            break
        chosen.add(device.id)
    return tuple(device for device in devices if device.id in chosen)


def _ambiguous(devices: Sequence[Device], entries: Sequence[str], environ: Mapping[str, str]) -> bool:
    if not any(entry.isdecimal() for entry in entries) or len(devices) < 2:
        return False
    cut = any(_is_instance(device) for device in devices)
    alike = len({device.name for device in devices}) == 1 and devices[0].name != ""
    return cut or not (alike or environ.get(ORDER) == "PCI_BUS_ID")


def _named(devices: Sequence[Device], entry: str) -> Device | None:
    if entry.isdecimal():
        return next((device for device in devices if device.id.split(":")[1:] == [str(int(entry))]), None)
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    found = [device for device in devices if device.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _is_instance(device: Device) -> bool:
    return device.id.count(":") > 1

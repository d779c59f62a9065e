"""What devices this machine has, and how much memory is free on each right now.

NVIDIA GPUs if the driver says there are any, else the CPU with the memory that its
control group leaves us. The only user of pynvml and psutil's memory figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

from workers.devices import Device, DeviceKind

_MIB = 1024 * 1024
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU by name, for people."""

    device: Device
    name: str


def devices() -> tuple[Device, ...]:
    return tuple(gpu.device for gpu in nvidia_gpus()) or (cpu(),)


def nvidia_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs, or none when there is no driver or it does not answer."""
    try:
        pynvml.nvmlInit()
        try:
            return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ()


def driver_version() -> str | None:
    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def cpu() -> Device:
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if (limit := cgroup_limit()) is not None:
        total, free = min(total, limit.total), min(free, limit.free)
    return Device(id="cpu", kind=DeviceKind.CPU, total_mib=total // _MIB, free_mib=free // _MIB)


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """Bytes. `free` counts what the kernel can drop at once, as files read long ago, as free."""

    total: int
    free: int


def cgroup_limit(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> CgroupLimit | None:
    """Return the tightest memory limit that this process is under, or None when there is none."""
    limits = [limit for folder in _cgroup_folders(root, membership) if (limit := _limit(folder)) is not None]
    return min(limits, key=lambda limit: limit.free, default=None)


def _cgroup_folders(root: Path, membership: Path) -> list[Path]:
    """The control groups around this process, innermost first; version 2, else version 1's memory tree."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            top = root if controllers == "" else root / "memory"
            # Inside a container the path may be the host's and not exist here; the top one always does.
            inner = top / path.strip("/")
            return [inner, *(parent for parent in inner.parents if parent == top or top in parent.parents)]
    return []


def _limit(folder: Path) -> CgroupLimit | None:
    for limit_file, usage_file, droppable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        total = _number(folder / limit_file)
        usage = _number(folder / usage_file)
        # Version 1 says "no limit" with a number beyond any machine's memory.
        if total is not None and usage is not None and total < 1 << 60:
            return CgroupLimit(total, max(0, total - usage + _stat(folder / "memory.stat", droppable)))
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None


def _stat(file: Path, key: str) -> int:
    try:
        found = [line.split()[1] for line in file.read_text().splitlines() if line.split()[:1] == [key]]
    except OSError:
        return 0
    return int(found[0]) if found else 0


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    device = Device(
        id=f"cuda:{index}",
        kind=DeviceKind.CUDA,
        total_mib=int(memory.total) // _MIB,
        free_mib=int(memory.free) // _MIB,
    )
    name = pynvml.nvmlDeviceGetName(handle)
    return Gpu(device, name.decode() if isinstance(name, bytes) else str(name))
